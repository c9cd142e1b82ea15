/** A list of words or phrases, written with commas between them. */
const list = (phrases: string): readonly string[] =>
  phrases
    .split(",")
    .map((phrase) => phrase.trim().replace(/\s+/g, " "))
    .filter((phrase) => phrase !== "");

export const girls =
  list(`Lily, Mia, Anna, Sara, Zoe, Ella, Nora, Ruby, Lucy, Maya, Rosa, Clara, Emma, Ivy, Leila, Nina,
  Olga, Tara, Wendy, Amina, Bella, Carmen, Dora, Elena, Freya, Greta, Hana, Ines, Julia, Kira, Lola, Molly, Naomi, Polly,
  Rita, Sophie, Tilda, Uma, Vera, Yuki, Aisha, Priya, Mei, Alma, Signe`);

export const boys =
  list(`Tom, Ben, Max, Sam, Leo, Jack, Tim, Finn, Omar, Hugo, Oscar, Peter, Adam, Noah, Luca, Ravi, Anton,
  Bruno, Carlo, David, Emil, Felix, George, Henry, Ivan, Jonah, Karim, Liam, Milo, Nico, Otto, Paul, Ralph, Simon, Theo,
  Victor, Walter, Yusuf, Arthur, Kofi, Kenji, Pablo, Rafi, Samir, Bjorn`);

export const animalNames =
  list(`Pip, Rusty, Bramble, Hazel, Clover, Nibble, Poppy, Acorn, Biscuit, Button, Maple, Pepper,
  Willow, Fern, Thistle, Daisy, Cricket, Dusty, Ginger, Hopper, Juniper, Lark, Muffin, Nutmeg, Pebble, Pickle, Quill, Rumble,
  Sniffle, Tumble, Waffle, Ziggy`);

/** Animals that may be the hero of a story. */
export const animals =
  list(`rabbit, fox, squirrel, hedgehog, mouse, badger, otter, bear, beaver, mole, duck, owl, goat,
  frog, raccoon, deer, wolf, turtle, lamb, pony, hen, goose, monkey, elephant, lion, panda, penguin,
  hare, toad, stork, crow, raven, swan, donkey,
  ferret, dormouse, chipmunk, weasel, moose, heron, woodpecker, partridge, marten, vole, shrew, magpie, cuckoo, ram, salamander`);

/** Small animals that somebody can help or keep. */
export const smallAnimals =
  list(`kitten, puppy, bird, duckling, lamb, bunny, hedgehog, squirrel, chick, mouse, turtle,
  piglet, fawn, owl, sparrow, robin, pigeon, lizard, frog, goat,
  foal, cub, calf, gosling, swallow, finch, blackbird, bat`);

export const traits = list(`kind, curious, brave, cheerful, clever, shy, gentle, quiet, lively, friendly,
  careful, playful, hopeful, thoughtful, busy, merry, honest, eager, polite, patient, funny, bold, dreamy, proud, sleepy,
  helpful, noisy, stubborn,
  calm, clumsy, daring, generous, grumpy, humble, impatient, loyal, modest, nervous, obedient, cautious, reckless, restless,
  sensible, serious, sincere, timid, tireless, tidy, untidy, wise, witty, earnest, forgetful, tender, jolly, bashful`);

export const colours = list(
  `red, blue, green, yellow, purple, orange, pink, white, brown, black, grey, golden, silver`,
);
const clothColours = list(`${colours.join()}, striped, spotted, woolly, soft, warm, thick, knitted`);
const woods = list(`wooden, carved, painted, old, tiny, smooth, little, handmade`);
const metals = list(`shiny, silver, golden, copper, brass, tiny, polished, old, iron, round`);
export const papers = list(`paper, thin, old, colourful, folded, yellow, green, blue`);

/** Things that a child owns and carries; all singular, so that each is an "it". */
export const things: readonly { readonly noun: string; readonly looks: readonly string[] }[] = [
  ...list(
    `ball, kite, drum, bucket, yo-yo, toy car, toy train, balloon, paintbrush, cup, marble, pencil, umbrella, candle, crayon,
    feather, jar, paddle, pinwheel, plate, raincoat, sledge, basin, jug, pebble`,
  ).map((noun) => ({ noun, looks: colours })),
  ...list(
    `scarf, hat, cap, blanket, teddy bear, mitten, ribbon, bag, doll, cushion, sock, coat, puppet, apron, belt, cloak, glove,
    handkerchief, jacket, pillow, quilt, shawl, slipper, sweater, vest`,
  ).map((noun) => ({
    noun,
    looks: clothColours,
  })),
  ...list(
    `flute, toy boat, spoon, sword, wagon, music box, spinning top, stool, toy horse, ladle, picture frame, arrow, bow,
    broom, chess piece, comb, cradle, fiddle, puzzle, rake, staff, tray, walking stick, xylophone`,
  ).map((noun) => ({ noun, looks: woods })),
  ...list(
    `whistle, bell, key, coin, ring, lantern, mirror, watch, compass, trumpet, button, telescope, necklace,
    bracelet, buckle, candlestick, goblet, hammer, horseshoe, kettle, magnet, medal, padlock, thimble`,
  ).map((noun) => ({ noun, looks: metals })),
  ...list(`book, map, paper crown, fan, notebook, calendar, envelope, letter, poster, postcard`).map(
    (noun) => ({
      noun,
      looks: papers.filter((look) => !noun.startsWith(look)),
    }),
  ),
];

export const foods =
  list(`apple pie, bread, carrot soup, pancakes, honey cake, cherry tart, porridge, tomato soup, plum jam,
  ginger cookies, cheese sandwiches, potato stew, corn cakes, banana bread, rice pudding, noodle soup, peach pie,
  raisin buns, mushroom soup, lemon cake, pumpkin pie, nut bread, berry muffins, waffles,
  barley broth, baked pears, onion rolls,
  blueberry tart, cabbage stew, cinnamon buns, dumplings, fried eggs, lentil soup, marmalade, melon salad, oat biscuits,
  parsnip soup, pea soup, popcorn, radish salad, roasted chestnuts, spinach pie, strawberry jelly, toast, turnip stew,
  vanilla custard, walnut cake, yoghurt, almond pastries, bean stew, cucumber sandwiches, grape juice, hazelnut bread`);

/** What children want to become. */
export const roles =
  list(`baker, farmer, sailor, doctor, teacher, painter, singer, dancer, gardener, fisherman, carpenter,
  postman, pilot, cook, writer, nurse, tailor, blacksmith, shepherd, librarian, firefighter, clown, inventor, captain,
  weaver, potter, beekeeper, miller, cobbler, jeweller, mechanic, judge, builder, plumber, photographer, astronomer, explorer,
  sculptor, drummer, conductor, electrician, florist, glassblower, innkeeper, juggler, magician, mason, messenger, musician,
  poet, printer, scientist, violinist, watchmaker, zookeeper, acrobat, diver, engineer`);

export const hobbies =
  list(`climb trees, paint pictures, count the stars, sing songs, build towers, collect smooth stones,
  tell jokes, ask questions, dance in the rain, jump over puddles, read stories, watch the clouds, play hide and seek,
  listen to old tales, whistle tunes, chase butterflies, roll down hills, draw maps, pick flowers, feed the birds,
  make up riddles, look for insects, bake cookies, splash in the water, dig holes, ride a bicycle, invent games,
  balance on walls, blow bubbles, build dams, carve whistles, copy voices, fold boats, gather chestnuts, juggle lemons,
  learn poems, mend broken toys, plant seeds, polish spoons, press leaves, skip with a rope, solve puzzles, study beetles,
  swing on branches, tickle the cat, trace shadows, wade through the brook, write letters`);

export const animalHobbies =
  list(`climb trees, count the stars, sing songs, collect smooth stones, tell jokes, ask questions,
  dance in the rain, jump over puddles, watch the clouds, play hide and seek, listen to old tales, chase butterflies, roll
  down hills, pick flowers, make up riddles, look for berries, splash in the water, dig holes, nap in the shade,
  gather shells, invent games,
  balance on stones, build dams, copy voices, explore burrows, follow footprints, hum melodies, leap over ditches,
  plant acorns, rest in the clover, spy on beetles, wade through the brook`);

export interface PlaceWords {
  readonly name: string;
  /** Preposition for being there. */
  readonly at: "in" | "at" | "on" | "by";
  readonly spots: readonly string[];
}

const place = (name: string, at: PlaceWords["at"], spots: string): PlaceWords => ({
  name,
  at,
  spots: list(spots),
});

const park = place(
  "the park",
  "in",
  "under the bench, behind a tall tree, beside the fountain, near the swings, in the long grass",
);
const market = place(
  "the market",
  "at",
  "under a fruit stall, behind the barrels, beside the flower seller, between two carts, near the cheese table",
);
const library = place(
  "the library",
  "in",
  "under the desk, between two shelves, behind a pile of books, beside the armchair, on the window sill",
);
const school = place(
  "the school",
  "at",
  "under a chair, behind the door, beside the blackboard, in the cupboard, on the stairs",
);
const beach = place(
  "the beach",
  "at",
  "behind a rock, under an old boat, beside a sandcastle, among the shells, between two towels",
);
const harbour = place(
  "the harbour",
  "at",
  "behind a coil of rope, under a fishing net, beside the lighthouse, between the crates, near the big anchor",
);
const forest = place(
  "the forest",
  "in",
  "under a pile of leaves, behind a mossy log, beside the stream, in a hollow tree, among the ferns",
);
const meadow = place(
  "the meadow",
  "in",
  "behind a bush, among the daisies, under a flat stone, beside the fence, in the tall grass",
);
const river = place(
  "the river",
  "by",
  "under the bridge, among the reeds, behind a willow, beside the stepping stones, on the muddy bank",
);
const pond = place(
  "the pond",
  "by",
  "among the lilies, behind the reeds, under a log, beside the old raft, near the frogs",
);
const hill = place(
  "the hill",
  "on",
  "behind a big rock, under the lonely pine, beside the path, in a rabbit hole, among the thorns",
);
const orchard = place(
  "the orchard",
  "in",
  "under an apple tree, behind a ladder, beside the stone wall, among the baskets, in a wheelbarrow",
);
const barn = place(
  "the barn",
  "in",
  "under the hay, behind the tractor, beside the cow, among the sacks, on a wooden beam",
);
const field = place(
  "the field",
  "in",
  "behind the scarecrow, under a cabbage leaf, beside the gate, among the sunflowers, near the pumpkins",
);
const garden = place(
  "the garden",
  "in",
  "under the rose bush, behind the shed, beside the well, among the tulips, in a flower pot",
);
const cave = place(
  "the cave",
  "in",
  "behind a pointed stone, under a ledge, beside the dark pool, in a narrow crack, near the entrance",
);
const valley = place(
  "the valley",
  "in",
  "behind a boulder, under a fallen branch, beside the waterfall, among the goats, near the ruined tower",
);
const square = place(
  "the village square",
  "in",
  "under the clock, behind the statue, beside the pump, near the bakery, on the steps",
);
const lake = place(
  "the lake",
  "by",
  "under the jetty, among the rushes, behind a canoe, beside the campfire, on the pebbles",
);

const mill = place(
  "the mill",
  "at",
  "behind the millstone, under a flour sack, beside the water wheel, among the cobwebs, on the bottom step",
);
const bakery = place(
  "the bakery",
  "in",
  "under the counter, behind the oven, beside the scales, among the loaves, on the flour bin",
);
const museum = place(
  "the museum",
  "in",
  "behind a suit of armour, under the dinosaur, beside the ticket desk, between two paintings, near the globe",
);
const theatre = place(
  "the theatre",
  "in",
  "behind the curtain, under the stage, beside the piano, among the costumes, in the front row",
);
const station = place(
  "the railway station",
  "at",
  "under a bench on the platform, behind the signal box, beside the suitcases, near the timetable, in the waiting room",
);
const greenhouse = place(
  "the greenhouse",
  "in",
  "behind a cactus, under the vines, beside the watering can, among the seedlings, on a dusty shelf",
);
const marsh = place(
  "the marsh",
  "in",
  "behind a tussock, under a rotten plank, beside a heron's nest, among the cattails, on a dry patch",
);
const quarry = place(
  "the old quarry",
  "in",
  "behind a slab of slate, under a rusty rail, beside a deep puddle, among the brambles, on a ledge",
);
const cliff = place(
  "the cliff",
  "on",
  "behind a clump of heather, under an overhang, beside the cairn, among the gulls, near the edge",
);
const vineyard = place(
  "the vineyard",
  "in",
  "under the grapes, behind a stone hut, beside the wine press, among the rows, near the rosemary",
);

export interface SettingWords {
  /** Where people live in it, after "lived". */
  readonly homes: readonly string[];
  readonly places: readonly PlaceWords[];
}

export const childSettings: readonly SettingWords[] = [
  {
    homes: list("in a big town, in a tall house in the city, in a busy street, above a little shop"),
    places: [park, market, library, school, garden, river, museum, theatre, station, bakery],
  },
  {
    homes: list(
      "in a quiet village, in a small cottage, in a village near a river, at the end of a narrow lane",
    ),
    places: [square, meadow, river, garden, market, orchard, pond, mill, bakery],
  },
  {
    homes: list("by the sea, on a small island, in a white house near the sea, in a fishing village"),
    places: [beach, harbour, hill, market, garden, cave, cliff],
  },
  {
    homes: list("on a farm, on a farm in the south, in a farmhouse with a red roof"),
    places: [barn, field, orchard, pond, meadow, hill, vineyard, greenhouse],
  },
  {
    homes: list("in the mountains, in a cabin by a lake, in a wooden house near the forest"),
    places: [valley, lake, forest, hill, cave, meadow, quarry],
  },
];

export const animalSettings: readonly SettingWords[] = [
  {
    homes: list("deep in the forest, at the edge of the woods, in a cosy den, under an old oak tree"),
    places: [forest, meadow, river, hill, pond, cave, quarry],
  },
  {
    homes: list("in a green valley, near a clear lake, in a nest of leaves by the water"),
    places: [valley, lake, forest, meadow, hill, marsh],
  },
  {
    homes: list("near an old farm, behind a big barn, in a corner of a large garden"),
    places: [barn, field, orchard, garden, pond, meadow, mill, greenhouse],
  },
];

/** What somebody passes on the way; each goes with a or an. */
export const sights =
  list(`rusty gate, crooked chimney, heap of bricks, flock of starlings, broken fence, hollow stump, patch of nettles,
  snail on a thistle, spider's web full of dew, pair of muddy boots, cart without wheels, lazy tomcat, row of beehives,
  scarecrow in a torn shirt, weathercock on a roof, ditch full of tadpoles, swarm of gnats, ladder against a wall,
  wheelbarrow of turnips, clothes line with nine shirts, signpost with three arms, tangle of ivy, crumbling archway,
  caterpillar on a leaf, dragonfly on a reed, barking terrier, tractor with a flat tyre, bridge of planks, nest of twigs,
  mushroom as large as a saucer, puddle shaped like a fish, cloud shaped like a dragon, circle of toadstools, milk churn,
  grasshopper on a stalk, trail of ants, feather in the dust, lost horseshoe, kestrel high above, hedge full of wrens,
  basket of laundry, chapel with a bent spire, fountain without water, lamp post, stack of firewood, drowsy bumblebee,
  mound of gravel, banner from last year's fair, moth on a doorpost, squeaking pump, bonfire that was still smoking,
  blossoming hawthorn, patch of shade, wooden trough, ruined wall, jackdaw with a twig, narrow footbridge, sleeping mule`);

/** A day's weather: how it opens a story, and a sentence about it. */
export const days: readonly { readonly opening: readonly string[]; readonly weather: readonly string[] }[] = [
  {
    opening: list("one sunny morning, one bright morning, one summer day, one warm afternoon"),
    weather: [
      "The sun was shining and the sky was blue.",
      "The air was warm and smelled of flowers.",
      "There was not a single cloud in the sky.",
      "Bees were humming and the light danced on the leaves.",
      "Swallows darted through the golden haze.",
      "Even the pavement glowed in the heat.",
    ],
  },
  {
    opening: list("one windy day, one windy morning, one autumn day, one cool afternoon"),
    weather: [
      "The wind was playing with the leaves.",
      "Grey clouds were racing across the sky.",
      "Yellow leaves whirled through the air.",
      "The trees were swaying and creaking.",
      "Shutters rattled and a hat flew past.",
      "Gusts tugged at every sleeve.",
    ],
  },
  {
    opening: list("one spring morning, one fresh morning, one day in April, one day after the rain"),
    weather: [
      "Drops of water sparkled on every leaf.",
      "The birds were singing and everything smelled fresh.",
      "A rainbow stood over the roofs.",
      "There were puddles everywhere.",
      "Snails crept over the glistening path.",
      "Buds were swelling on the twigs.",
    ],
  },
  {
    opening: list("one cold morning, one winter day, one frosty morning, one chilly afternoon"),
    weather: [
      "The ground was hard and white with frost.",
      "Everyone could see their own breath in the air.",
      "A few flakes of snow were falling.",
      "The sun was pale and low.",
      "Icicles hung from the gutters.",
      "Smoke rose straight up from the chimneys.",
    ],
  },
  {
    opening: list("one foggy morning, one grey day, one misty morning, one quiet afternoon"),
    weather: [
      "A thin mist lay over the ground.",
      "The sky was grey, but it did not rain.",
      "Everything was still and soft.",
      "The world looked as if it were still asleep.",
      "Sounds came from far away, muffled as if through wool.",
      "Somewhere a bell was ringing, but nobody could see the tower.",
    ],
  },
];

/** Grown-ups of the family: what they are and what children call them. */
export const elders: readonly { readonly kind: string; readonly call: string; readonly female: boolean }[] = [
  { kind: "mother", call: "Mum", female: true },
  { kind: "father", call: "Dad", female: false },
  { kind: "grandmother", call: "Grandma", female: true },
  { kind: "grandfather", call: "Grandpa", female: false },
  { kind: "aunt", call: "Auntie", female: true },
  { kind: "uncle", call: "Uncle", female: false },
];
