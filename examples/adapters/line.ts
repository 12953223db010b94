/** A line over TCP is a request, `<name> <json>`; each answer is a line: `<name> reply <json>`, `<name> fault <json>`, `<name> accepted`. */
import { once } from 'node:events';
import { createServer, type Socket } from 'node:net';
import { adapter, Fault, type GatewayAnswer } from 'answerback';

export const line = adapter<{ readonly port: number; readonly flow: string }>({
  name: 'line',
  summary: 'Requests as lines of text over TCP, from this machine only.',
  says: { reply: '`<name> reply <json>`', accepted: '`<name> accepted`, later the reply', fault: '`<name> fault <json>`', oneWay: 'not at all' },
  settings: {
    port: { doc: 'Port to listen on.', format: 'port', default: 8082, env: 'HUB_LINE_PORT' },
    flow: { doc: 'Flow that each line is a request for.', format: 'String', default: 'hello', env: 'HUB_LINE_FLOW' },
  },
  async open({ port, flow }, { gateway, access, stopping }) {
    const principal = access.authenticate(undefined);
    if (principal === undefined) throw new Error('line: this hub has principals, and a line cannot say who asks: remove adapters.line');
    const answer = async (text: string, say: (line: string) => void, signal: AbortSignal) => {
      const [, name = '?', body = '?'] = /^(\S{1,100}) (.+)$/.exec(text) ?? [];
      try {
        let heard: GatewayAnswer | undefined = await gateway.request({ flow, principal, body: Buffer.from(body), contentType: 'application/json', idempotencyKey: name, signal });
        if (heard.kind === 'accepted') say(`${name} accepted`);
        while (heard?.kind === 'accepted' && !signal.aborted && !stopping.aborted) heard = await gateway.collect(heard.id, principal, 60_000, signal);
        if (heard?.kind === 'outcome') say(`${name} ${heard.outcome.kind === 'reply' ? 'reply' : 'fault'} ${heard.outcome.body.toString().replaceAll('\n', ' ')}`);
      } catch (error) {
        say(`${name} fault ${JSON.stringify(error instanceof Fault ? { code: error.code, message: error.message } : { code: 'internal' })}`);
      }
    };
    const sockets = new Set<Socket>();
    const server = createServer((socket) => {
      const [gone, partial] = [new AbortController(), { line: '' }];
      sockets.add(socket.setEncoding('utf8').on('error', () => undefined).on('close', () => (sockets.delete(socket), gone.abort())).on('data', (chunk) => {
        const lines = (partial.line + String(chunk)).split('\n');
        if ((partial.line = lines.pop() ?? '').length > 100_000) return socket.destroy();
        return lines.forEach((text) => void answer(text, (said) => void socket.write(`${said}\n`), gone.signal));
      }));
    });
    await once(server.listen(port, '127.0.0.1'), 'listening').catch((cause: Error) => Promise.reject(new Error(`line: ${cause.message}: set HUB_LINE_PORT`)));
    return { urls: [`tcp://127.0.0.1:${port}`], close: async () => (server.close(), sockets.forEach((socket) => socket.destroySoon())) };
  },
});
