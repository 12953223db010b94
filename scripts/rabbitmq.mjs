// RabbitMQ: how to ask whether one answers, and how to start a private node.

import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { closeSync, mkdirSync, openSync, realpathSync, writeFileSync } from 'node:fs';
import { get } from 'node:http';
import { connect, isIP } from 'node:net';
import { delimiter, dirname, join } from 'node:path';
import { connect as connectTls } from 'node:tls';
import { find, freePorts } from './processes.mjs';

export const name = 'rabbitmq';
export const title = 'RabbitMQ';
export const variable = 'HUB_RABBITMQ_URL';
export const local = 'amqp://guest:guest@127.0.0.1:5672';
export const protocols = ['amqp:', 'amqps:'];
// The inner script first: the one in Debian's /usr/sbin insists on the user rabbitmq.
export const binaries = ['/usr/lib/rabbitmq/bin/rabbitmq-server', 'rabbitmq-server'];
export const packages = { apt: 'rabbitmq-server', brew: 'rabbitmq' };

/** What keeps us from using this RabbitMQ, in words; null if nothing does. Logs in, up to the choice of the vhost; over
 * TLS it stops before the password, because it does not check the certificate.
 * @param {string} url @param {number} withinMs @returns {Promise<string | null>} */
export function check(url, withinMs) {
  const { protocol, hostname, port, username, password } = new URL(url);
  const tls = protocol === 'amqps:';
  const to = { host: hostname.replace(/^\[|\]$/g, ''), port: Number(port || (tls ? 5671 : 5672)) };
  return new Promise((resolve) => {
    const socket = tls ? connectTls({ ...to, ...(isIP(to.host) ? {} : { servername: to.host }), rejectUnauthorized: false }) : connect(to);
    /** @param {string | null} problem */
    const done = (problem) => {
      clearTimeout(timer);
      resolve(problem);
      socket.destroy();
    };
    const timer = setTimeout(() => done(`no answer within ${withinMs / 1000} s`), withinMs);
    let got = Buffer.alloc(0);
    socket.on('error', (error) => done(error.message));
    socket.on('close', () => done('it closed the connection'));
    socket.on('data', (data) => {
      got = Buffer.concat([got, data]);
      if (got.length >= 8 && got.toString('latin1', 0, 4) === 'AMQP') return done('it does not speak AMQP 0-9-1');
      if (got[0] !== 1) return done('what listens there does not speak AMQP');
      if (got.length < 7 || got.length < 8 + got.readUInt32BE(3)) return;
      const payload = got.subarray(7, 7 + got.readUInt32BE(3));
      got = got.subarray(8 + payload.length);
      switch (payload.readUInt32BE(0)) {
        case START:
          if (tls) return done(null);
          return socket.write(startOk(decodeURIComponent(username || 'guest'), decodeURIComponent(password || 'guest')));
        case TUNE:
          return done(null);
        case CLOSE:
          return done(`it refuses the login (${payload.toString('utf8', 7, 7 + payload.readUInt8(6))})`);
        default:
          return done('what listens there does not speak AMQP 0-9-1');
      }
    });
    socket.write(Buffer.from('AMQP\0\0\x09\x01', 'latin1'));
  });
}

// Class 10 (connection) in the upper half, method in the lower.
const [START, START_OK, TUNE, CLOSE] = [0x000a000a, 0x000a000b, 0x000a001e, 0x000a0032];

/** @param {string} user @param {string} password */
function startOk(user, password) {
  const short = (/** @type {string} */ text) => Buffer.concat([Buffer.from([Buffer.byteLength(text)]), Buffer.from(text)]);
  const number = (/** @type {number} */ value) => {
    const bytes = Buffer.alloc(4);
    bytes.writeUInt32BE(value);
    return bytes;
  };
  const long = (/** @type {Buffer} */ body) => Buffer.concat([number(body.length), body]);
  const flag = (/** @type {string} */ key) => Buffer.concat([short(key), Buffer.from('t\x01', 'latin1')]);
  const table = (/** @type {Buffer} */ body) => Buffer.concat([Buffer.from('F'), long(body)]);
  // Without this capability RabbitMQ answers a wrong password by closing the socket, without a word.
  const properties = long(Buffer.concat([short('capabilities'), table(flag('authentication_failure_close'))]));
  const payload = Buffer.concat([
    number(START_OK),
    properties,
    short('PLAIN'),
    long(Buffer.from(`\0${user}\0${password}`)),
    short('en_US'),
  ]);
  return Buffer.concat([Buffer.from([1, 0, 0]), long(payload), Buffer.from([0xce])]);
}

/** The management API at this address, or null if none answers. @param {string} url @returns {Promise<string | null>} */
export function managementAt(url) {
  return new Promise((resolve) => {
    const asked = get(url, { timeout: 1_000, agent: false }, (response) => {
      response.resume();
      resolve(url);
    });
    asked.on('timeout', () => asked.destroy());
    asked.on('error', () => resolve(null));
  });
}

/** Starts a private node with all it has in `home`. It outlives us: end its pids, the node first, then its epmd.
 * @param {{ binary: string, home: string }} where
 * @returns {Promise<{ children: import('node:child_process').ChildProcess[], url: string, managementUrl: string, logs: string[] }>} */
export async function start({ binary, home }) {
  mkdirSync(join(home, 'conf.d'), { recursive: true, mode: 0o700 });
  const [port, management, distribution, epmdPort] = await freePorts(4);
  writeFileSync(join(home, 'plugins'), '[rabbitmq_management].\n');
  // What expires while it starts may be moved on only after this; 180 s unless set (docs/adr/0015).
  writeFileSync(join(home, 'advanced.config'), '[{rabbit, [{dead_letter_worker_publisher_confirm_timeout, 5000}]}].\n');
  writeFileSync(
    join(home, 'rabbitmq.conf'),
    [
      `listeners.tcp.1 = 127.0.0.1:${port}`,
      'management.tcp.ip = 127.0.0.1',
      `management.tcp.port = ${management}`,
      'disk_free_limit.absolute = 200MB',
      '',
    ].join('\n'),
  );

  // Nothing is inherited but PATH: a RABBITMQ_* variable of the machine's own node must not lead us to its data.
  const env = {
    PATH: [dirname(binary), process.env.PATH, '/opt/homebrew/bin', '/usr/local/bin', '/usr/bin', '/bin'].join(delimiter),
    LANG: 'C.UTF-8',
    HOME: home, // the Erlang cookie is made here
    ERL_EPMD_PORT: `${epmdPort}`,
    ERL_EPMD_ADDRESS: '127.0.0.1',
    ERL_CRASH_DUMP_SECONDS: '0',
    // Of this folder, and the same at each start: RabbitMQ names its data after the node.
    RABBITMQ_NODENAME: `hub-${createHash('sha256').update(realpathSync(home)).digest('hex').slice(0, 8)}@localhost`,
    RABBITMQ_DIST_PORT: `${distribution}`,
    RABBITMQ_MNESIA_BASE: join(home, 'data'),
    RABBITMQ_LOG_BASE: join(home, 'log'),
    RABBITMQ_PID_FILE: join(home, 'pid'),
    RABBITMQ_GENERATED_CONFIG_DIR: join(home, 'generated'),
    RABBITMQ_ENABLED_PLUGINS_FILE: join(home, 'plugins'),
    RABBITMQ_CONFIG_FILE: join(home, 'rabbitmq.conf'),
    RABBITMQ_CONFIG_FILES: join(home, 'conf.d'),
    RABBITMQ_ADVANCED_CONFIG_FILE: join(home, 'advanced.config'),
    RABBITMQ_CONF_ENV_FILE: join(home, 'rabbitmq-env.conf'),
    RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS: '-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none',
    // The script then becomes the node instead of staying as its parent: one process, one pid.
    RUNNING_UNDER_SYSTEMD: 'true',
  };

  const output = join(home, 'start.log');
  const fd = openSync(output, 'w');
  /** @type {import('node:child_process').SpawnOptions} */
  const options = { cwd: home, env, detached: true, stdio: ['ignore', fd, fd] };
  // An epmd of our own, started by us, can be ended by us; the one that Erlang would start stays for ever.
  const erlang = find(['erl']);
  const beside = erlang && join(dirname(realpathSync(erlang)), 'epmd');
  const epmd = spawn(find(['epmd', ...(beside ? [beside] : [])]) ?? 'epmd', ['-address', '127.0.0.1', '-port', `${epmdPort}`], options);
  const node = spawn(binary, [], options);
  closeSync(fd);
  return {
    children: [node, epmd],
    url: `amqp://guest:guest@127.0.0.1:${port}`,
    managementUrl: `http://127.0.0.1:${management}`,
    logs: [output, join(home, 'log')],
  };
}
