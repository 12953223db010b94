import { connect } from 'node:net';
import { once } from 'node:events';
import { afterAll } from '@jest/globals';
import { Agent, request } from 'undici';
import { soap } from '../../adapters/soap/index.js';
import type { SoapSettings } from '../../adapters/soap/index.js';
import { escapeText, parseXml, type Element } from '../../adapters/soap/xml.js';
import { adapterContract, takenPort, type Driver, type Heard, type Work } from '../contract/adapter.js';
import { freePort } from '../support/ports.js';

const maxSize = 20_000;
const agent = new Agent();
afterAll(() => agent.close());
const namespace = 'urn:answerback:flows';

const envelope = (body: string): string =>
  `<?xml version="1.0"?><e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/"><e:Body>${body}</e:Body></e:Envelope>`;
const operation = ({ do: what, text }: Work): string =>
  envelope(`<f:ContractWork xmlns:f="${namespace}"><f:do>${what}</f:do><f:text>${escapeText(text)}</f:text></f:ContractWork>`);
const at = (element: Element | undefined, ...path: string[]): Element | undefined =>
  path.reduce<Element | undefined>((node, name) => node?.children.find((child) => child.name === name), element);

const driver: Driver<SoapSettings> = {
  adapter: soap,
  repeats: true,
  settings: async () => ({
    port: await freePort(),
    host: '127.0.0.1',
    path: '/soap',
    flows: [],
    principal: '',
    open: false,
    wait: 0,
    maxSize,
    maxInFlight: 100,
    namespace,
    address: '',
  }),
  async connect(open) {
    const url = new URL(open.urls[0]!.replace('?wsdl', ''));
    async function post(body: string | Buffer, headers: Record<string, string> = {}): Promise<Element> {
      const response = await request(url, {
        dispatcher: agent,
        method: 'POST',
        body,
        headers: { 'content-type': 'text/xml; charset=utf-8', soapaction: '""', ...headers },
      });
      return at(parseXml(await response.body.text()), 'Body')!.children[0]!;
    }
    function heard(said: Element, reply = at(said, 'text')): Heard {
      if (said.name !== 'Fault') return { kind: 'reply', body: { text: reply!.text } };
      const detail = at(said, 'detail', 'RequestFault');
      const code = at(detail, 'code')!.text;
      if (code !== 'accepted') return { kind: 'fault', code };
      const id = at(detail, 'requestId')!.text;
      const collect = async (): Promise<Heard> => {
        const answer = await post(envelope(`<Collect xmlns="${namespace}"><requestId>${id}</requestId></Collect>`));
        const later = heard(answer, at(answer, 'ContractWorkResponse', 'text'));
        return later.kind === 'accepted' ? later.later() : later;
      };
      return { kind: 'accepted', later: collect };
    }
    const codeOf = (said: Heard) => (said.kind === 'fault' ? said.code : said.kind);
    const raw = async (text: string) => {
      const socket = connect(Number(url.port), '127.0.0.1');
      await once(socket, 'connect');
      socket.on('error', () => undefined);
      socket.write(text);
      return socket;
    };
    const head = (length: number) =>
      `POST /soap HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/xml\r\ncontent-length: ${length}\r\n\r\n`;
    return {
      send: async (_name, work) => heard(await post(operation(work))),
      async sendTwice(name, work) {
        const same = () => post(operation(work), { 'idempotency-key': name });
        return (await Promise.all([same(), same()])).map((said) => heard(said));
      },
      sendGarbage: async (_name, garbage) => codeOf(heard(await post(garbage))),
      sendHuge: async () => codeOf(heard(await post(operation({ do: 'echo', text: 'x'.repeat(maxSize) })))),
      async vanish(_name, work) {
        const text = operation(work);
        const socket = await raw(head(Buffer.byteLength(text)) + text);
        return async () => void socket.destroy();
      },
      async stall() {
        const text = operation({ do: 'echo', text: 'never' });
        const socket = await raw(head(text.length) + text.slice(0, 100));
        return async () => void socket.destroy();
      },
      close: async () => undefined,
    };
  },
  refuses: [
    {
      what: 'a taken port',
      says: /port \d+ on 127\.0\.0\.1 is taken: stop what listens there, or choose another one with HUB_SOAP_PORT=/,
      async settings(good) {
        const { port, release } = await takenPort();
        return { settings: { ...good, port }, release };
      },
    },
    {
      what: 'a public address without keys',
      says: /without principals everybody who reaches 0\.0\.0\.0 could use this hub.*HUB_SOAP_OPEN=true/,
      settings: async (good) => ({ settings: { ...good, host: '0.0.0.0' } }),
    },
    {
      what: 'an address of another machine',
      says: /this machine has no address 192\.0\.2\.1/,
      settings: async (good) => ({ settings: { ...good, host: '192.0.2.1', open: true } }),
    },
    {
      what: 'a flow that is not there',
      says: /names "contract\.wrok", and there is no such flow; did you mean "contract\.work"\?/,
      settings: async (good) => ({ settings: { ...good, flows: ['contract.wrok'] } }),
    },
    {
      what: 'an unknown principal',
      says: /there is no principal "nobody" in hub\.yaml/,
      settings: async (good) => ({ settings: { ...good, principal: 'nobody' } }),
    },
  ],
};

adapterContract(driver);
