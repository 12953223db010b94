/** The clock that all processes share: it goes by elapsed time, and is set by the store's. */
import { afterEach, describe, expect, it, jest } from '@jest/globals';
import { followingClock } from '../../broker/clock.js';

describe('a following clock', () => {
  afterEach(() => void jest.restoreAllMocks());

  it('says what the other clock says, however wrong this machine is', async () => {
    const hour = 3_600_000;
    const right = Date.now() + hour;
    const began = performance.now();
    const clock = await followingClock(async () => right + (performance.now() - began));
    expect(Math.abs(clock.now() - (right + performance.now() - began))).toBeLessThan(50);
    const wall = jest.spyOn(Date, 'now').mockReturnValue(0);
    expect(Math.abs(clock.now() - (right + performance.now() - began))).toBeLessThan(50);
    expect(wall).not.toHaveBeenCalled();
    clock.close();
  });

  it('is not to be had when the other clock cannot be read', async () => {
    await expect(followingClock(() => Promise.reject(new Error('away')))).rejects.toThrow('away');
  });
});
