import { it } from '@jest/globals';
import { http } from '../../adapters/http/index.js';
import { file } from '../../adapters/file.js';
import { soap } from '../../adapters/soap/index.js';
import { loadProject, checkCallSettings } from '../../config/project.js';
it('trial', () => {
  const adapters = [http, file, soap] as never as { name: string; settings: never; callSettings?: never }[];
  const t = performance.now();
  const p = loadProject('examples/loan-broker', { adapters });
  console.log(performance.now() - t, p.effective().map((e) => `${e.name}=${e.value} (${e.source})`).join('\n'), p.unknownEnv, p.flows.length);
  for (const a of adapters) if (a.callSettings) console.log(a.name, checkCallSettings(a.callSettings, {}, 'x'));
});
