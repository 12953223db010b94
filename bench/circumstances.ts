/** Under which circumstances a run was made: the machine, the services, the commit. */
import { execFile } from 'node:child_process';
import { cpus, totalmem } from 'node:os';
import { promisify } from 'node:util';
import { connect } from 'amqplib';
import { Redis } from 'ioredis';

/** One line of Markdown. */
export async function circumstancesOf(urls: { rabbitmq: string; redis: string }, settings: string): Promise<string> {
  const [broker, store, commit] = await Promise.all([rabbitmqVersion(urls.rabbitmq), redisVersion(urls.redis), commitNow()]);
  const machine = `${cpus().length} × ${cpus()[0]?.model.trim() ?? 'unknown processor'}, ${Math.round(totalmem() / 2 ** 30)} GiB`;
  const date = new Date().toISOString().slice(0, 16).replace('T', ' ');
  return `${date} UTC, commit ${commit}; ${machine}; Node ${process.version}, RabbitMQ ${broker}, Redis ${store}; ${settings}.`;
}

async function rabbitmqVersion(url: string): Promise<string> {
  const connection = await connect(url);
  const { version } = connection.connection.serverProperties;
  await connection.close();
  return String(version);
}

async function redisVersion(url: string): Promise<string> {
  const redis = new Redis(url);
  const info = await redis.info('server');
  await redis.quit();
  return /redis_version:(\S+)/.exec(info)?.[1] ?? 'unknown';
}

/** With a plus when files differ from it. */
async function commitNow(): Promise<string> {
  const git = async (...args: string[]) => (await promisify(execFile)('git', args)).stdout.trim();
  try {
    const changed = await git(
      'status',
      '--porcelain',
      '--untracked-files=no',
      '--',
      'broker',
      'adapters',
      'workers',
      'main.ts',
      'bench/*.ts',
    );
    return (await git('rev-parse', '--short=10', 'HEAD')) + (changed === '' ? '' : '+');
  } catch {
    return 'unknown';
  }
}
