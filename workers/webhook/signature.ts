/** Signatures after Standard Webhooks 1.0: HMAC-SHA256 over id, time and body, one for each secret, so that a receiver may change its secret at leisure. */
import { createHmac } from 'node:crypto';

/** The key in `whsec_<base64>`. Throws, without the text, when it is none of 24 to 64 bytes. */
export function keyOf(secret: string): Buffer {
  const [, base64 = ''] = /^whsec_([A-Za-z0-9+/]+={0,2})$/.exec(secret.trim()) ?? [];
  const key = Buffer.from(base64, 'base64');
  if (key.length < 24 || key.length > 64)
    throw new Error('is not whsec_ and 24 to 64 bytes in base64, as `openssl rand -base64 32` makes them');
  return key;
}

export interface Signed {
  readonly 'webhook-id': string;
  readonly 'webhook-timestamp': string;
  readonly 'webhook-signature': string;
}

/** The three headers of an attempt at `now` (ms since 1970). The body is signed as it is sent. */
export function signed(keys: readonly Buffer[], id: string, now: number, body: Buffer): Signed {
  const timestamp = String(Math.floor(now / 1_000));
  const signatureBy = (key: Buffer) => `v1,${createHmac('sha256', key).update(`${id}.${timestamp}.`).update(body).digest('base64')}`;
  return { 'webhook-id': id, 'webhook-timestamp': timestamp, 'webhook-signature': keys.map(signatureBy).join(' ') };
}
