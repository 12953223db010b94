/** python3-zeep as a child process: a strict SOAP client that is not ours. */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { resolve } from 'node:path';
import { createInterface } from 'node:readline';

export interface ZeepCall {
  readonly wsdl: string;
  readonly port?: 'HubSoap11' | 'HubSoap12';
  readonly operation?: string;
  readonly args?: unknown;
  readonly auth?: readonly [string, string];
  readonly bearer?: string;
  readonly describe?: boolean;
}

export interface Zeep {
  call(call: ZeepCall): Promise<Record<string, unknown>>;
  close(): Promise<void>;
}

export function startZeep(): Zeep {
  const python = '/usr/bin/python3';
  if (spawnSync(python, ['-c', 'import zeep']).status !== 0)
    throw new Error('these tests need python3-zeep, a strict SOAP client: apt-get install -y python3-zeep');
  const child = spawn(python, [resolve('test/support/zeep_client.py')], { stdio: ['pipe', 'pipe', 'inherit'] });
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
  let last: Promise<unknown> = Promise.resolve();
  return {
    call(call) {
      const answer = last.then(async () => {
        child.stdin.write(`${JSON.stringify({ port: 'HubSoap11', ...call })}\n`);
        return JSON.parse((await lines.next()).value as string) as Record<string, unknown>;
      });
      last = answer.catch(() => undefined);
      return answer;
    },
    async close() {
      child.stdin.end();
      await once(child, 'exit');
    },
  };
}
