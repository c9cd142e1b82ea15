import koffi from "./koffi.js";

/** What the engine looks for before it is made. */
const variable = "ORT_DISABLE_TELEMETRY";

/**
 * Keeps the engine from reporting to its makers what it runs and by which command line, which it does by default on Linux and
 * macOS since version 1.30: it keeps a database in the person's cache folder that all processes share, and takes a thread for
 * it. A command line of some thousand characters, such as a long prompt, even ends the process. The variable has to be there
 * before the engine is made; in a worker thread `process.env` is a copy that the engine does not see.
 */
export function disableTelemetry(): void {
  if (process.platform === "win32") process.env[variable] = "1";
  else koffi.load(null).func("setenv", "int", ["const char *", "const char *", "int"])(variable, "1", 1);
}
