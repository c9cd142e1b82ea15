import type { TaskName } from "../data/index.js";
import { choice } from "./choice.js";
import { classification } from "./classify.js";
import { regress } from "./regress.js";
import { span } from "./span.js";
import { tag } from "./tag.js";
import type { Task } from "./task.js";

export const tasks: Readonly<Record<TaskName, Task>> = {
  classify: classification("classify"),
  pair: classification("pair"),
  regress,
  tag,
  span,
  choice,
};
