/** `answerback user <name>`: a password from the terminal or a pipe, and the line for hub.yaml. */
import { hashPassword } from '../broker/people.js';

const shortest = 8;

/** One line of the input. On a terminal it is asked for, and not shown. */
export async function passwordFrom(input: NodeJS.ReadStream): Promise<string> {
  if (input.isTTY) process.stderr.write('password: ');
  const shown = input.isTTY ? input.isRaw : undefined;
  if (shown !== undefined) input.setRawMode(true);
  try {
    let text = '';
    for await (const chunk of input) {
      for (const char of String(chunk)) {
        if (char === '\u0003') throw new Error('interrupted');
        if (char === '\r' || char === '\n') return text;
        text = char === '\u007f' ? text.slice(0, -1) : text + char;
      }
    }
    return text;
  } finally {
    if (shown !== undefined) {
      input.setRawMode(shown);
      process.stderr.write('\n');
    }
  }
}

export async function userLine(name: string, password: string): Promise<string> {
  if ([...password].length < shortest) throw new Error(`a password has at least ${shortest} characters`);
  return `  ${JSON.stringify(name)}: { password: "${await hashPassword(password)}", groups: [], roles: [task-user] }   # under users: in hub.yaml`;
}
