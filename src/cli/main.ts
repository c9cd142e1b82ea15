#!/usr/bin/env node
import module from "node:module";

// Node 22.8 and newer keep what they compiled for the next start; NODE_DISABLE_COMPILE_CACHE turns it off. Only modules
// that load later gain by it, so the program is not imported by a statement.
(module as typeof module & { enableCompileCache?: () => unknown }).enableCompileCache?.();

const { runCommand } = await import("./program.js");
process.exitCode = await runCommand(process.argv.slice(2));
