/** Where in a model a node was made: a module with its dotted path, read only when a program is written. */
export interface Scope {
  readonly path: string;
}

const scopes: Scope[] = [];

/** The innermost scope in which operations are being written now. */
export const currentScope = (): Scope | undefined => scopes.at(-1);

/** Runs `build` with every operation that it writes belonging to `scope`. */
export function withScope<T>(scope: Scope, build: () => T): T {
  scopes.push(scope);
  try {
    return build();
  } finally {
    scopes.pop();
  }
}
