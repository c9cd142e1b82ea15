#!/usr/bin/env node
import module from "node:module";

// Node 22.8 and newer keep what they compiled for the next start; NODE_DISABLE_COMPILE_CACHE turns it off. Only modules
// that load later gain by it, so the program is not imported by a statement.
(module as typeof module & { enableCompileCache?: () => unknown }).enableCompileCache?.();

// Whoever read the output has left, as head does: the command ends as one that SIGPIPE ends.
for (const stream of [process.stdout, process.stderr])
  stream.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code !== "EPIPE") throw error;
    process.exit(141);
  });

const { runCommand } = await import("./program.js");
process.exitCode = await runCommand(process.argv.slice(2));
