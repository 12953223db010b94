/** Callbacks go to public addresses only, however the address is written, and whatever a name resolves to the second time. */
import { describe, expect, it } from '@jest/globals';
import { refusedAddress } from '../../workers/webhook/address.js';
import { poster } from '../../workers/webhook/post.js';
import { keyOf } from '../../workers/webhook/signature.js';
import { openReceiver } from '../support/receiver.js';

const outgoing = (url: string, networks: readonly string[] = []) => ({ url: new URL(url), headers: {}, body: Buffer.from('x'), networks });
const never = new AbortController().signal;
const nowhere = async (): Promise<never> => {
  throw new Error('looked up');
};

describe('an address', () => {
  it.each([
    ...[
      '0.0.0.0',
      '0.1.2.3',
      '10.0.0.1',
      '100.64.0.1',
      '100.100.100.200',
      '127.0.0.1',
      '127.255.255.254',
      '169.254.169.254',
      '169.254.170.2',
    ],
    ...[
      '172.16.0.1',
      '172.31.255.255',
      '192.0.0.192',
      '192.0.2.1',
      '192.88.99.1',
      '192.168.0.1',
      '198.18.0.1',
      '198.51.100.7',
      '203.0.113.9',
    ],
    ...['224.0.0.1', '239.255.255.255', '240.0.0.1', '255.255.255.255', '168.63.129.16'],
    ...['::', '::1', '::7f00:1', '::ffff:127.0.0.1', '::ffff:10.0.0.1', '::ffff:a9fe:a9fe', '::ffff:0:127.0.0.1'],
    ...[
      '64:ff9b::7f00:1',
      '64:ff9b::10.0.0.1',
      '64:ff9b:1::1',
      '100::1',
      '2001::1',
      '2001:db8::1',
      '2001:10::1',
      '2001:20::1',
      '2002:7f00:1::',
      '2002:a00:1::1',
    ],
    ...['fc00::1', 'fd00:ec2::254', 'fe80::1', 'fec0::1', 'ff02::1', '4000::1', 'example.com', ''],
  ])('%s is refused', (address) => expect(refusedAddress(address, [])).toBeDefined());

  it.each(['1.1.1.1', '8.8.8.8', '93.184.215.14', '172.32.0.1', '2606:4700:4700::1111', '2a00:1450:4001:830::200e', '::ffff:8.8.8.8'])(
    '%s is public',
    (address) => expect(refusedAddress(address, [])).toBeUndefined(),
  );

  it('is allowed in a network that hub.yaml names, and only there', () => {
    expect(refusedAddress('10.20.1.1', ['10.20.0.0/16'])).toBeUndefined();
    expect(refusedAddress('::ffff:10.20.1.1', ['10.20.0.0/16'])).toBeUndefined();
    expect(refusedAddress('10.21.0.1', ['10.20.0.0/16'])).toBeDefined();
    expect(refusedAddress('fd00::1', ['10.20.0.0/16', 'fd00::/64'])).toBeUndefined();
  });
});

describe('a post', () => {
  it.each([
    ...[
      '127.0.0.1',
      '127.1',
      '2130706433',
      '0x7f000001',
      '0x7f.1',
      '0177.0.0.1',
      '017700000001',
      '127.0.0.1.',
      '①②⑦.⓪.⓪.①',
      '0',
      '[::1]',
      '[::]',
    ],
    ...[
      '[::ffff:127.0.0.1]',
      '[::ffff:7f00:1]',
      '[0:0:0:0:0:ffff:7f00:1]',
      '[64:ff9b::7f00:1]',
      '[2002:7f00:1::]',
      '[fe80::1]',
      '[fd00:ec2::254]',
    ],
    ...['169.254.169.254', '0xa9fea9fe', '2852039166', '0251.0376.0251.0376', '10.1', '192.168.1', '100.64.1', '168.63.129.16'],
  ])('to the literal %s goes nowhere, and looks nothing up', async (host) => {
    const answered = await poster({ lookup: nowhere })(outgoing(`http://${host}:9/`), never);
    expect(answered).toEqual({ error: expect.stringMatching(/is not a public address/) });
  });

  it.each([
    ['localhost', ['127.0.0.1', '::1']],
    ['intranet.example', ['10.0.0.8']],
    ['metadata.google.internal', ['169.254.169.254']],
    ['six.example', ['::ffff:192.168.0.1']],
  ])('to %s, which resolves to %s, goes nowhere', async (host, addresses) => {
    const answered = await poster({ lookup: async () => addresses })(outgoing(`https://${host}/`), never);
    expect(answered).toEqual({ error: expect.stringMatching(/is not a public address/) });
  });

  it('connects to the address that was checked, not to what the name resolves to next', async () => {
    const receiver = await openReceiver();
    const { port } = new URL(receiver.url);
    let looks = 0;
    const rebinding = async () => (++looks === 1 ? ['127.0.0.1'] : ['10.0.0.1']);
    const answered = await poster({ lookup: rebinding })(outgoing(`http://rebinding.invalid:${port}/hook`, ['127.0.0.1/32']), never);
    expect(answered).toEqual({ status: 204 });
    expect(looks).toBe(1);
    expect(receiver.received).toMatchObject([{ path: '/hook', headers: { host: `rebinding.invalid:${port}` } }]);
    await receiver.close();
  });

  it('takes the public one of several addresses', async () => {
    const receiver = await openReceiver();
    const lookup = async () => ['10.0.0.1', '127.0.0.1'];
    const url = receiver.url.replace('127.0.0.1', 'two.invalid');
    expect(await poster({ lookup })(outgoing(url, ['127.0.0.0/8']), never)).toEqual({ status: 204 });
    await receiver.close();
  });

  it('ends in time when nobody answers, and when nobody resolves', async () => {
    const receiver = await openReceiver();
    receiver.answer(() => undefined);
    const impatient = poster({ timeoutMs: 200 });
    expect(await impatient(outgoing(receiver.url, ['127.0.0.0/8']), never)).toEqual({ error: 'no answer within 0.2 s' });
    const silent = poster({ timeoutMs: 200, lookup: () => new Promise(() => undefined) });
    expect(await silent(outgoing('https://silent.example'), never)).toEqual({ error: 'no answer within 0.2 s' });
    await receiver.close();
  });

  it('reads no more of an answer than it must, and keeps the wait that is asked for', async () => {
    const receiver = await openReceiver();
    receiver.answer({ status: 503, headers: { 'retry-after': '120' }, body: 'x'.repeat(20_000_000) });
    expect(await poster()(outgoing(receiver.url, ['127.0.0.0/8']), never)).toEqual({ status: 503, retryAfterMs: 120_000 });
    await receiver.close();
  });

  it('says why nobody was reached', async () => {
    expect(await poster()(outgoing('http://127.0.0.1:1/', ['127.0.0.0/8']), never)).toEqual({
      error: expect.stringMatching(/ECONNREFUSED/),
    });
  });
});

describe('a secret', () => {
  it('is whsec_ and 24 to 64 bytes, and is not told when it is not', () => {
    expect(keyOf(`whsec_${Buffer.alloc(32, 1).toString('base64')}\n`)).toEqual(Buffer.alloc(32, 1));
    for (const wrong of [
      '',
      'whsec_',
      'geheim',
      `whsec_${Buffer.alloc(8).toString('base64')}`,
      `whsec_${Buffer.alloc(99).toString('base64')}`,
    ]) {
      expect(() => keyOf(wrong)).toThrow(/24 to 64 bytes/);
      expect(() => keyOf(wrong)).not.toThrow(/geheim/);
    }
  });
});
