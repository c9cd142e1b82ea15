import type { Random } from "../../base/random.js";
import type { Entity } from "./grammar.js";
import {
  animalHobbies,
  animalNames,
  animals,
  animalSettings,
  boys,
  childSettings,
  days,
  elders,
  girls,
  hobbies,
  sights,
  things,
  traits,
} from "./words.js";

export const pick = <T>(random: Random, items: readonly T[]): T => items[random.integer(items.length)]!;

/** `count` different items in random order. */
function pickSeveral<T>(random: Random, items: readonly T[], count: number): T[] {
  const chosen: T[] = [];
  while (chosen.length < count) {
    const item = pick(random, items);
    if (!chosen.includes(item)) chosen.push(item);
  }
  return chosen;
}

const she = { he: "she", him: "her", his: "her", himself: "herself" };
const he = { he: "he", him: "him", his: "his", himself: "himself" };
const pronouns = (female: boolean): typeof he => (female ? she : he);

/** Which heroes a plot can have. */
export type Heroes = "child" | "animal" | "any";

/** The people and places that every story has. */
export interface CommonCast extends Record<string, Entity> {
  hero: Entity;
  friend: Entity;
  /** A grown-up of the hero's family; the name is said as "her mother". */
  elder: Entity;
  setting: Entity;
  /** A place of the setting, and three different spots in it. */
  place: Entity;
  otherPlace: Entity;
  day: Entity;
  /** Something that can be passed on the way. */
  sight: Entity;
  /** Something that the hero owns or finds: "red ball", with `noun` "ball". */
  thing: Entity;
}

export function commonCast(random: Random, heroes: Heroes): CommonCast {
  const animal = heroes === "animal" || (heroes === "any" && random.integer(3) === 0);
  const female = random.integer(2) === 0;
  const friendFemale = random.integer(2) === 0;
  const [heroTrait, friendTrait] = pickSeveral(random, traits, 2) as [string, string];

  let hero: Entity;
  let friend: Entity;
  if (animal) {
    const [kind, friendKind] = pickSeveral(random, animals, 2) as [string, string];
    const [name, friendName] = pickSeveral(random, animalNames, 2) as [string, string];
    hero = person(name, kind, heroTrait, `${name} the ${kind}`, female);
    friend = person(friendName, friendKind, friendTrait, `${friendName} the ${friendKind}`, friendFemale);
  } else {
    const name = pick(random, female ? girls : boys);
    let friendName = pick(random, friendFemale ? girls : boys);
    while (friendName === name) friendName = pick(random, friendFemale ? girls : boys);
    hero = person(name, female ? "girl" : "boy", heroTrait, name, female);
    friend = person(friendName, friendFemale ? "girl" : "boy", friendTrait, friendName, friendFemale);
  }

  const setting = pick(random, animal ? animalSettings : childSettings);
  const [place, otherPlace] = pickSeveral(random, setting.places, 2) as [
    (typeof setting.places)[number],
    (typeof setting.places)[number],
  ];
  const [spot1, spot2, spot3] = pickSeveral(random, place.spots, 3) as [string, string, string];
  const elder = pick(random, elders);
  const day = pick(random, days);

  return {
    hero: { ...hero, hobby: pick(random, animal ? animalHobbies : hobbies) },
    friend,
    elder: {
      ...pronouns(elder.female),
      name: `${hero.his} ${elder.kind}`,
      kind: elder.kind,
      call: elder.call,
    },
    setting: { name: pick(random, setting.homes) },
    place: {
      name: place.name,
      at: `${place.at} ${place.name}`,
      to: `to ${place.name}`,
      spot1,
      spot2,
      spot3,
    },
    otherPlace: {
      name: otherPlace.name,
      at: `${otherPlace.at} ${otherPlace.name}`,
      to: `to ${otherPlace.name}`,
    },
    day: { name: pick(random, day.opening), weather: pick(random, day.weather) },
    sight: named(pick(random, sights)),
    thing: someThing(random),
  };
}

function person(name: string, kind: string, trait: string, full: string, female: boolean): Entity {
  return { name, kind, trait, full, poss: `${name}'s`, ...pronouns(female) };
}

/** A thing with one adjective, other than `except`. */
export function someThing(random: Random, ...except: readonly Entity[]): Entity {
  let thing = pick(random, things);
  while (except.some((other) => other.noun === thing.noun)) thing = pick(random, things);
  return { name: `${pick(random, thing.looks)} ${thing.noun}`, noun: thing.noun };
}

/** An entity that is no more than a word. */
export const named = (name: string): Entity => ({ name });
