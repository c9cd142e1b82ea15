export * from "./advantages.js";
export {
  type AlignResult,
  type PreferenceRequest,
  type RewardRequest,
  alignPreferences,
  alignReward,
  resumePreferences,
  resumeReward,
} from "./align.js";
export {
  type OnlineControl,
  type OnlineResult,
  type RuleSample,
  alignGrpo,
  alignPpo,
  alignRejection,
  resumeGrpo,
  resumePpo,
  resumeRejection,
} from "./align-online.js";
export * from "./forward.js";
export * from "./learner.js";
export * from "./online.js";
export * from "./options.js";
export * from "./pairs.js";
export * from "./policy.js";
export * from "./reward-model.js";
export * from "./rollouts.js";
export * from "./texts.js";
export * from "./watch.js";
