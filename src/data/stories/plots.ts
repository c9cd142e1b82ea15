import type { Random } from "../../base/random.js";
import { type CommonCast, type Heroes, named, pick, someThing } from "./cast.js";
import { type Cast, type Fragments, type Text, capitalise, compile } from "./grammar.js";
import { foods, roles, smallAnimals } from "./words.js";

/** One kind of story: who may be its hero, what it needs besides the common cast, and how it is told. */
export interface Plot {
  readonly name: string;
  readonly heroes: Heroes;
  readonly extend?: (cast: CommonCast, random: Random) => Cast;
  readonly text: Text;
}

const sources: Record<string, string> = {
  beginning: `[Once upon a time|Long ago|Once|Not so long ago|Years ago], there [lived|was] a~ [little|young|small] {hero.kind}
    [called|named|whose name was] {hero.name}. {Hero.name} lived {setting} and was very {hero.trait}.
    [More than anything, {hero.he} liked to {hero.hobby}.|Every day, {hero.he} liked to {hero.hobby}.|{Hero.name} loved to {hero.hobby}.|Whenever nobody needed {hero.him}, {hero.he} would {hero.hobby}.|Nobody could {hero.hobby} for as long as {hero.he} could.]`,
  morning: `{Day}, {hero.name} [went|wandered|hurried|strolled] {place.to}. [{day.weather}|<way>|]`,
  way: `[On the way|Along the road|Halfway there|Just before it], {hero.he} [saw|passed|noticed|stopped to admire] a~ {sight}.`,
  sad: `[{Hero.name} felt sad.|{Hero.name} was sad and sat down.|Tears came into {hero.his} eyes.|{Hero.name} wanted to cry.|A lump rose in {hero.his} throat.|{Hero.poss} heart sank.|{Hero.name} sighed deeply.|Disappointed, {hero.name} stared at the ground.]`,
  glad: `[{Hero.name} was very happy.|{Hero.name} smiled from ear to ear.|{Hero.name} laughed with joy.|{Hero.name} had never been so happy.|{Hero.name} skipped with delight.|Relief spread through {hero.name} like warm cocoa.|{Hero.name} whooped and spun in a circle.|{Hero.poss} eyes sparkled.]`,
  night: `[That night, {hero.name} slept well.|In the evening, {hero.name} told {elder} everything.|At bedtime, {hero.name} was still smiling.|The moon climbed over the rooftops, and {hero.name} yawned contentedly.|Outside, an owl hooted twice, as if it agreed.|Before midnight, the whole house was snoring.|]`,
  said: `[said|answered|replied]`,
};

export const fragments: Fragments = Object.fromEntries(
  Object.entries(sources).map(([name, source]) => [name, compile(source)]),
);

const withFood = (cast: CommonCast, random: Random): Cast => ({ ...cast, food: named(pick(random, foods)) });
const withOther = (cast: CommonCast, random: Random): Cast => ({
  ...cast,
  other: someThing(random, cast.thing),
});
const withRole = (cast: CommonCast, random: Random): Cast => ({ ...cast, role: named(pick(random, roles)) });

const define = (name: string, heroes: Heroes, source: string, extend?: Plot["extend"]): Plot => ({
  name,
  heroes,
  text: compile(source),
  ...(extend && { extend }),
});

const withPet = (cast: CommonCast, random: Random): Cast => ({
  ...cast,
  pet: named(pick(random, smallAnimals)),
  place: { ...cast.place, spot1Capital: capitalise(cast.place["spot1"]!) },
});

export const plots: readonly Plot[] = [
  define(
    "lost and found",
    "any",
    `<beginning> {Hero.name} had a~ {thing}, and {hero.he} took it everywhere.

    <morning> But when {hero.he} came home, the {thing.noun} was gone! <sad>
    "[What is wrong|Why are you sad|What has happened]?" asked {elder}.
    "[I have lost my {thing}|My {thing} is gone|I cannot find my {thing}]," <said> {hero.name}.
    "Do not worry," <said> {elder}. "[Think of where you have been.|Let us look for it together.|Lost things like to wait where we left them.]"

    So they went back {place.to}. First they looked {place.spot1}, but it was not there. [Then|Next] they looked {place.spot2}.
    [Nothing!|Still nothing.|There was only a~ {friend.trait} {friend.kind} who had not seen it.]
    At last, {hero.name} looked {place.spot3}, and there [was|lay] the {thing}! <glad>
    "Thank you, {elder.call}!" said {hero.name}. [From then on, {hero.he} took better care of {hero.his} {thing.noun}.|After that day, {hero.he} never lost it again.] <night>`,
  ),
  define(
    "sharing",
    "any",
    `<beginning>

    {Day}, {elder} made some {food}. {Hero.name} took the {food} {place.to} and sat down {place.spot1}.
    [Soon|After a while|Just then], {friend.full} came along. {Friend.name} looked at the {food} and said nothing.
    "[Are you hungry|Would you like some|Do you want to eat with me]?" asked {hero.name}.
    "[Yes, please|Oh yes|I have not eaten all day]," <said> {friend.name}.

    {Hero.name} [thought for a moment|looked at the {food}|was hungry too], but {hero.he} gave {friend.him} half. They ate together and
    [talked about many things|told each other stories|laughed a lot]. The {food} had never tasted so good.
    "[You are kind|You have a good heart|That was nice of you]," said {friend.name}. "[Tomorrow I will bring something for you.|Let us be friends.|Now I want to show you something.]"
    [The next day, {friend.name} brought a~ {thing} as a present.|From that day on, {hero.name} and {friend.name} were best friends.]
    [Sharing makes everything better.|A shared meal is twice as good.|] <night>`,
    withFood,
  ),
  define(
    "the quarrel",
    "any",
    `<beginning> {Hero.poss} best friend was {friend.full}, who was {friend.trait}.

    <morning> {Friend.name} was already there. {Place.spot1Capital}, they found a~ {thing}.
    "[It is mine|I saw it first|That is for me]!" cried {hero.name}. "No, [it is mine|I saw it before you|I want it]!" shouted {friend.name}.
    They pulled and pulled until the {thing.noun} [fell into the mud|broke into two pieces|slipped out of their hands and was gone]. Both were [quiet|ashamed|very sorry].

    "[I am sorry|Please forgive me|I was silly]," said {hero.name}. "[I am sorry too|So was I|Me too]," <said> {friend.name}.
    [They went home and worked on it together until it was as good as new.|They looked for it together until the sun went down, and they found it {place.spot3}.|{Elder} helped them, and soon everything was right again.]
    [After that, they took turns.|From then on, they shared everything.|They knew now that a friend is worth more than a~ {thing.noun}.] <glad>`,
    (cast) => ({
      ...cast,
      hero: { ...cast.hero, poss: capitalise(cast.hero["his"]!) },
      place: { ...cast.place, spot1Capital: capitalise(cast.place["spot1"]!) },
    }),
  ),
  define(
    "afraid of the dark",
    "any",
    `<beginning> But {hero.he} was afraid of the dark.

    One night, {hero.name} heard a [strange|loud|soft] noise. "[Who is there|What was that|Is somebody there]?" whispered {hero.name}. Nobody answered.
    {Hero.name} [pulled the blanket over {hero.his} head|did not dare to move|called for {elder}]. Then {hero.he} heard it again.
    {Elder} came in with a lamp. "[Let us look together|Do not be afraid|Take my hand]," said {elder}.

    They looked under the bed and behind the door. And what did they find? [It was only a~ {thing} that had fallen down.|It was {friend.full}, who could not sleep.|It was only the wind, which played with a~ {thing}.]
    {Hero.name} [laughed|had to laugh|began to laugh]. "[I was afraid of nothing|The dark is not so bad|Next time I will look by myself]," said {hero.he}.
    "[Everybody is afraid sometimes|Being brave means to look|I am proud of you]," <said> {elder}. [From then on, {hero.name} slept without fear.|After that night, the dark was a friend.]`,
  ),
  define(
    "the storm",
    "any",
    `<beginning>

    <morning> {Hero.name} and {friend.full} played {place.spot1}. [Suddenly|All at once|Then], the sky [became dark|turned black|was full of clouds] and it began to rain.
    "[We must go home|Let us run|We will get wet]!" cried {friend.name}. But the rain was too strong.
    "[Come with me|I know a place|Follow me]," said {hero.name}, and they hid {place.spot2}.

    They waited for a long time. To be less afraid, they [sang songs|told each other riddles|counted the seconds between the thunder and the lightning]. {Friend.name} shivered, so {hero.name} gave {friend.him} a~ {thing} to hold.
    At last, the rain stopped. [A rainbow stood over the trees.|The sun came out again.|The birds began to sing.]
    At home, {elder} [was waiting at the door|had been worried|hugged them both]. "[I am glad that you are safe|You were clever to wait|Here is something warm to drink]," said {elder}. <glad> <night>`,
  ),
  define(
    "learning",
    "any",
    `<beginning> But there was one thing that {hero.he} could not do: {hero.he} could not [swim|whistle|read|dance].

    <morning> {Friend.full} was there and did it very well. "[Is it hard|Can you teach me|How do you do that]?" asked {hero.name}.
    "[It is easy|Just try|You have to practise]," <said> {friend.name}. {Hero.name} tried once. It did not work. {Hero.he} tried again, and [it was even worse|{hero.he} fell over|everybody laughed]. <sad>
    "[I will never learn it|I give up|It is too hard for me]," said {hero.name}.
    "[I had to try a hundred times|Nobody can do it at once|Do not give up so soon]," <said> {friend.name}. "[Try once more.|Look, I will show you.|Come back tomorrow.]"

    So {hero.name} practised every day {place.at}. Some days were hard. But [one morning|after a week|in the end], it worked! <glad>
    "[I can do it|Look at me|It works]!" {hero.he} cried. {Friend.name} clapped {friend.his} hands. "[I knew it|You never gave up|Well done]!" {friend.he} said.
    {Elder} was proud and gave {hero.him} a~ {thing}. <night>`,
  ),
  define(
    "the promise",
    "any",
    `<beginning>

    {Day}, {elder} gave {hero.him} a~ {thing}. "[Please take it to {friend.name}|{Friend.name} needs it today|Bring it to {friend.name}]," said {elder}. "[And do not stop on the way.|Will you be careful?|Be back before dark.]"
    "I promise," <said> {hero.name}, and {hero.he} set off.
    The way led past {otherPlace}. There was so much to see that {hero.name} [forgot the time|put the {thing.noun} down|forgot the promise]. {Hero.he} stayed to {hero.hobby}.

    When the sun went down, {hero.he} remembered. {Hero.he} ran all the way {place.to}, where {friend.full} was waiting.
    "[I am sorry that I am late|I forgot the time|Please do not be angry]," said {hero.name}. "[I waited all day|I was worried|You have come at last]," <said> {friend.name}.
    "[I will tell {elder} the truth|I broke my promise|Next time I will come at once]," said {hero.name}. {Elder} was not angry. "[It is brave to tell the truth|A promise is like a bridge|Now you know what a promise is]," said {elder}.
    [After that, {hero.name} always kept {hero.his} word.|{Hero.name} never forgot it.] <night>`,
  ),
  define(
    "the trade",
    "any",
    `<beginning> {Hero.he} had a~ {thing}, but {hero.he} wanted a~ {other}.

    <morning> There {hero.he} met {friend.full}, who had a~ {other}. "[Shall we swap|Will you trade with me|Do you like my {thing.noun}]?" asked {hero.name}.
    {Friend.name} [thought about it|looked at the {thing.noun}|smiled]. "[All right|Yes, gladly|Let us swap]," {friend.he} said. So {hero.name} took the {other.noun} and {friend.name} took the {thing.noun}.

    At first, {hero.name} was happy. But at home {hero.he} [missed {hero.his} {thing.noun}|could not sleep|did not know what to do with the {other.noun}]. <sad>
    The next day, {hero.name} went back {place.to}. {Friend.name} was sitting {place.spot1}. ["I miss my {other.noun}," said {friend.name}. "And I miss mine!"|"I could not sleep," said {friend.name}. "Nor could I!"|"I want to swap back," said {friend.name}. "That is why I came!"] <said> {hero.name}.
    They laughed and swapped again. [Then they played with both.|From then on, they shared both.|What we have is often what we need.] <glad>`,
    withOther,
  ),
  define(
    "what to become",
    "child",
    `<beginning> {Hero.name} wanted to become a~ {role} one day.

    "[You are too small|That is not for you|You cannot do that]," said {friend.name}. <sad> But {elder} said, "[Everybody starts small|Every {role} was once a child|Let us see]."
    {Day}, they went {place.to}, where an old {role} lived. "[May I watch you|Will you teach me|What does a~ {role} do all day]?" asked {hero.name}.
    "[Come in|Gladly|Sit down]," <said> the {role}. "[You need patience|First you must learn to look|You need steady hands] and [a good heart|a lot of courage|sharp eyes]."

    All day long, {hero.name} helped. In the evening, {hero.he} was tired, but {hero.he} had learned a lot. The {role} gave {hero.him} a~ {thing}. "[You will be a good {role}|Come back whenever you like|This is for you]," said the {role}. <glad>
    {Friend.name} was surprised. "[I was wrong|Now I believe you|I am proud of you]," said {friend.he}. <night>`,
    withRole,
  ),
  define(
    "the stranger",
    "any",
    `<beginning>

    {Day}, somebody new came {place.to}. It was {friend.full}. Nobody [talked to {friend.him}|knew {friend.him}|wanted to play with {friend.him}], and {friend.name} stood alone {place.spot1}.
    {Hero.name} saw it. "[How lonely that must be|I know how that feels|I will ask]," thought {hero.name}. {Hero.he} walked over.
    "Hello, I am {hero.name}. [What is your name|Do you want to play|Where do you come from]?" {hero.he} asked. "[I am {friend.name}|My name is {friend.name}|I am {friend.name} and I know nobody here]," <said> {friend.name} in a small voice.

    {Hero.name} showed {friend.him} everything: what was {place.spot2}, what was {place.spot3}, and {hero.his} own {thing}. [Soon, the others came too.|It turned out that {friend.name} was {friend.trait} and very funny.|By the evening, {friend.name} was laughing.]
    "[Today I found a friend|Thank you for asking me|I am not alone any more]," said {friend.name}. "[I am glad|Come back tomorrow|Let us meet again]," <said> {hero.name}. <glad>`,
  ),
  define(
    "the helper",
    "any",
    `<beginning>

    <morning> {Hero.he} heard a voice: "Help! [I am stuck|I cannot get out|Please help me]!" It came from a spot {place.spot1}. It was {friend.full}.
    "[I am coming|Do not be afraid|Hold on]," said {hero.name}. "[I wanted to reach my {thing}|I slipped|I was looking for my {thing}]," <said> {friend.name}.
    {Hero.name} pulled as hard as {hero.he} could, but {friend.name} did not move. [What now?|{Hero.he} was not strong enough.|{Hero.he} had to think.]

    Then {hero.he} had an idea. {Hero.he} [found a long branch {place.spot2}|ran to fetch {elder}|found a strong rope {place.spot2}]. [One, two, three!|They pulled together.|It took a while.] And {friend.name} was free!
    "[You saved me|I thank you|You are a true friend]," said {friend.name}. "[You would do the same for me|It was nothing|That is what friends are for]," <said> {hero.name}.
    [Later, {friend.name} gave {hero.him} the {thing}.|They walked home side by side.|{Elder} made supper for both of them.] <glad> <night>`,
  ),
  define(
    "the surprise",
    "any",
    `<beginning> Soon it would be {friend.poss} birthday. {Friend.full} was {hero.poss} best friend.

    "[What can I give {friend.him}|What would {friend.name} like|What shall I do]?" {hero.name} asked {elder}. "[The best presents are made by hand|Think of what {friend.name} loves|Let us think]," <said> {elder}.
    {Day}, {hero.name} went {place.to}. {Hero.he} [looked|searched] {place.spot1}, {place.spot2} and {place.spot3}, and [found what {hero.he} needed|collected many little things|at last had an idea].
    At home, {hero.he} worked [until the evening|for three days|very hard] and made a~ {thing}. {Elder} made some {food}.

    When {friend.name} came, everything was [dark and quiet|ready]. "Surprise!" cried {hero.name}. {Friend.name} [jumped|could not believe it|was speechless]. "[Is this for me|Did you make it|Is it a present]?" {friend.he} asked. "[It is all for you|I made it myself|Happy birthday]," <said> {hero.name}.
    They ate and danced until the stars came out. [It was the best birthday of all.|{Friend.name} kept the {thing.noun} for ever.] <glad>`,
    withFood,
  ),
  define(
    "the seed",
    "any",
    `<beginning>

    {Day}, {elder} gave {hero.him} [a small brown seed|a wrinkled seed|a seed no larger than a crumb]. "[Plant it and be patient|Put it into the earth and give it time|Bury it and care for it]," said {elder}.
    {Hero.name} carried it {place.to}. <way> There {hero.he} [dug a hole for it|pushed it into the soil|buried it] {place.spot1}.
    Every [morning|evening], {hero.he} [watered it from an old kettle|brought water in a jug|pulled out the weeds]. But a whole week passed and nothing [grew|showed|happened]. <sad>
    "[Perhaps it is broken|It will sleep for ever|I must have done something wrong]," said {hero.name} when {friend.full} came by.
    "[My cousin once waited a month|Roots grow first, where nobody sees them|Whatever you do, never dig it up]," <said> {friend.name}. [Together they built a fence of twigs around it.|{Friend.name} left a~ {thing} beside it to keep the crows away.|They sang to it, just in case.]

    [Ten days later|One dawn|On a damp Thursday], a green [sprout|shoot|tip] [peeped out of|broke through|poked out of] the ground. By [autumn|the end of summer|September], it was [a sunflower taller than a door|a bush heavy with blackberries|a vine with three fat pumpkins]. <glad>
    {Hero.name} gave [the first blossom|half of the harvest|a handful of new seeds] to {friend.name}. "[Next year we will have two|Waiting was the hardest part|You were right about the roots]," {hero.he} said. <night>`,
  ),
  define(
    "the broken jug",
    "child",
    `<beginning>

    {Day}, {hero.name} was [chasing a moth|juggling three onions|practising cartwheels] indoors, though {elder} had [often forbidden it|asked {hero.him} not to|warned {hero.him} twice]. [Crash!|Bang!|Oh no!] The [striped vase|clay jug|china teapot] [fell from the shelf|toppled over|slid off the table] and [shattered|broke into a dozen pieces|lay in splinters].
    {Hero.name} [turned pale|held {hero.his} breath|froze]. Nobody had seen it. "[Shall I hide the pieces|Shall I blame the cat|What if nobody asks]?" {hero.he} thought. [But the thought made {hero.his} stomach ache.|But {hero.his} cheeks were burning.|But a secret is heavy to carry.]
    Then {friend.full} knocked at the door. "[Why are you so silent|Did you see a ghost|What are those bits]?" asked {friend.name}. {Hero.name} [confessed|explained] everything. "[Tell the truth before supper|Honesty is quicker|I will stand beside you]," <said> {friend.name}.

    So {hero.name} waited [on the doorstep|by the window|in the hallway] until {elder} came home, and [told the whole story|admitted it at once|hid nothing]. {Elder} [sighed|frowned|was silent for a while]. "[I am sad about it, but glad that you told me|That was my favourite, and yet I am proud of you|Accidents happen, but lies are made]," said {elder}.
    [They glued the pieces together, and afterwards it leaked only a little.|To pay for it, {hero.name} swept the yard for a month.|{Hero.name} offered {hero.his} own {thing}, but {elder} only shook {elder.his} head and smiled.] [That evening, {hero.name} felt as light as thistledown.|{Hero.name} never played like that indoors again.]`,
  ),
  define(
    "the race",
    "any",
    `<beginning>

    <morning> A race was about to start. "The winner gets a~ {thing}," announced {elder}. {Friend.full} was [the fastest runner for miles|already boasting|certain of victory]. "[You have no chance|I could win backwards|Try not to stumble over your own feet]," said {friend.name}.
    {Hero.name} [only shrugged|kept quiet|breathed in slowly]. [Ready, steady, go!|A bell rang, and off they went.|{Elder} waved a handkerchief.] {Friend.name} shot ahead. [Halfway|At the last bend|Near the finish], {friend.he} [turned round to mock the others|glanced back over {friend.his} shoulder] and [tripped over a root|slipped on wet leaves|twisted {friend.his} ankle].

    {Hero.name} could have run past, for [the goal was close|there was nobody ahead|nobody would have blamed {hero.him}]. But {friend.name} was [groaning|pale with pain|unable to stand]. {Hero.name} stopped, [bound the wound with a strip of cloth|lifted {friend.him} up|offered {hero.his} shoulder], and together they [limped|hobbled] over the line, [last of all|long after everybody else].
    "[I mocked you, and still you helped me|I was unkind, and you were not|You gave up the prize for me]," said {friend.name}. "[A prize gathers dust|There will be other races|I would rather have a friend]," <said> {hero.name}.
    [Everyone applauded.|Even the judges wiped their eyes.|The loudest cheer of the afternoon was for those two.] <glad> <night>`,
  ),
  define(
    "the little one",
    "child",
    `<beginning>

    <morning> {Place.spot1Capital}, something [whimpered|rustled|squeaked]. It was a [tiny|shivering|hungry|frightened] {pet}, all alone.
    "[Where is your family|Are you hurt|Have you lost your way]?" asked {hero.name}. The {pet} only trembled. {Hero.name} wrapped it in [moss|a handkerchief|dry hay] and gave it [a few drops of water|some crumbs|a sheltered place to rest].
    "[May I keep it|Can it stay with us|Must it leave]?" {hero.name} asked {elder}. "[It is not ours to keep|Someone is surely searching for it|First we must ask everybody]," <said> {elder}. <sad>

    So {hero.name} [asked at every door|wrote a notice in large letters|followed the tracks in the sand] until {hero.he} met {friend.full}, who [had heard a sad call all night|knew where its mother lived|had seen the rest of the family].
    Together they went {otherPlace.to}. There, [its mother came at once|three brothers were waiting|its mother was calling and calling]. {Hero.name} put the {pet} down. It looked back once, and then it vanished. [It hurt a little, but it was right.|{Hero.name} swallowed hard.|Something in {hero.his} chest was heavy and light at once.]
    [Some weeks later|The following spring|On {hero.his} birthday], there was a~ {thing} on the doorstep. Nobody knew who had left it, but {hero.name} [could guess|had an idea]. <glad>`,
    withPet,
  ),
];
