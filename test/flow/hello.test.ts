import { describe, expect, it } from '@jest/globals';
import { worker } from '../../index.js';
import { memoryHub } from '../support/hub.js';

describe('hello on the ports in memory', () => {
  it('answers on the line', async () => {
    const hub = await memoryHub({
      flows: { hello: ['hello'] },
      steps: [worker({ name: 'hello', handle: ({ name }: { name: string }) => ({ greeting: `Hello, ${name}!` }) })],
    });
    expect(await hub.reply('hello', { name: 'Ada' })).toEqual({ greeting: 'Hello, Ada!' });
    await hub.close();
  });
});
