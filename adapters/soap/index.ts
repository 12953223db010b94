/**
 * The SOAP adapter. In (`server.ts`): each flow is an operation of a WSDL that is made from the flows' JSON Schemas. Out
 * (`client.ts`): a step calls an operation of somebody's WSDL.
 */
import type { AddressInfo } from 'node:net';
import { adapter, type AdapterContext, type Open } from '../../broker/adapter.js';
import { didYouMean, type Flow } from '../../broker/flow.js';
import { cannotListen, isLoopback, refusePublicWithoutKeys } from '../../broker/listening.js';
import { soapClient, type SoapCallSettings } from './client.js';
import { soapServer, type ServerSettings } from './server.js';
import { operationsOf } from './wsdl.js';

export interface SoapSettings extends ServerSettings {
  readonly port: number;
  readonly flows: readonly string[];
}

export const soap = adapter<SoapSettings | SoapCallSettings>({
  name: 'soap',
  summary: 'Flows as SOAP 1.1 and 1.2 operations with a WSDL; out: a step calls an operation of a WSDL.',
  says: {
    reply: "the operation's response element",
    accepted: 'a fault (Server, Receiver) whose detail has the code `accepted` and the requestId; `Collect` brings the reply later',
    fault: 'a fault whose detail has code, message and errors: Client (Sender) when the message is wrong, else Server (Receiver)',
    oneWay: 'not at all: every operation has a reply',
  },
  settings: {
    port: { doc: 'Port to listen on; 0: any free one.', format: 'port', default: 8081, env: 'HUB_SOAP_PORT' },
    host: { doc: 'Address to listen on.', format: 'String', default: '127.0.0.1', env: 'HUB_SOAP_HOST' },
    path: { doc: 'Path of the service; its WSDL is at <path>?wsdl.', format: 'String', default: '/soap', env: 'HUB_SOAP_PATH' },
    flows: {
      doc: 'Flows that become operations. Empty: all that have a JSON Schema for the request.',
      format: 'Array',
      default: [],
      env: 'HUB_SOAP_FLOWS',
    },
    principal: {
      doc: 'Who asks when no key is sent: a principal of hub.yaml. Empty: a key is needed where there are principals.',
      format: 'String',
      default: '',
      env: 'HUB_SOAP_PRINCIPAL',
    },
    open: {
      doc: 'Answer on a public address, and to pages of other origins, without authentication.',
      format: 'bool',
      default: false,
      env: 'HUB_SOAP_OPEN',
    },
    wait: { doc: 'How long a call is held. 0: as long as its flow allows.', format: 'duration', default: 0, env: 'HUB_SOAP_WAIT' },
    maxSize: { doc: 'Largest envelope; larger ones get 413.', format: 'size', default: 1_048_576, env: 'HUB_SOAP_MAX_SIZE' },
    maxInFlight: { doc: 'Calls held at once; more get 503.', format: 'nat', default: 5_000, env: 'HUB_SOAP_MAX_IN_FLIGHT' },
    namespace: { doc: 'Target namespace of the WSDL.', format: 'String', default: 'urn:answerback:flows', env: 'HUB_SOAP_NAMESPACE' },
    address: {
      doc: 'URL that the WSDL gives for the service, where a proxy stands in front. Empty: where the WSDL was asked for.',
      format: 'String',
      default: '',
      env: 'HUB_SOAP_ADDRESS',
    },
  },
  callSettings: {
    wsdl: {
      doc: 'The WSDL: a file (relative to the project) or an http URL, which is read at the first call.',
      format: 'String',
      default: '',
    },
    operation: { doc: 'Operation to call.', format: 'String', default: '' },
    service: { doc: 'Service of the WSDL. Empty: the one that has the operation.', format: 'String', default: '' },
    port: { doc: 'Port of the service. Empty: the first that has the operation.', format: 'String', default: '' },
    endpoint: { doc: 'Where the service is. Empty: where the WSDL says.', format: 'String', default: '' },
    version: { doc: 'Version of SOAP.', format: ['1.1', '1.2'], default: '1.1' },
    timeout: { doc: "How long one attempt may take, at most what is left of the request's life.", format: 'duration', default: 30_000 },
    user: { doc: 'User of HTTP Basic.', format: 'String', default: '' },
    passwordEnv: { doc: 'Name of the environment variable that holds its password.', format: 'String', default: '' },
    bearerEnv: { doc: 'Name of the environment variable that holds a bearer token.', format: 'String', default: '' },
    maxSize: { doc: 'Largest answer.', format: 'size', default: 4_194_304 },
    connections: { doc: 'Connections to the service at once.', format: 'nat', default: 50 },
  },

  async open(settings: SoapSettings, context: AdapterContext): Promise<Open> {
    refusePublic(settings, context);
    if (!/^[a-z][a-z0-9+.-]*:[^\s"<>&]+$/i.test(settings.namespace))
      throw new Error(
        `soap: ${JSON.stringify(settings.namespace)} is no namespace: set HUB_SOAP_NAMESPACE to a URI such as urn:answerback:flows`,
      );
    const { server, close } = soapServer(operationsFor(settings, context.gateway.flows), settings, context);
    await new Promise<void>((resolve, reject) => {
      server.once('error', (error: NodeJS.ErrnoException) => reject(cannotListen('soap', settings, error)));
      server.listen(settings.port, settings.host, resolve);
    });
    const { port } = server.address() as AddressInfo;
    return { urls: [`http://${settings.host.includes(':') ? `[${settings.host}]` : settings.host}:${port}${settings.path}?wsdl`], close };
  },

  call: (settings: SoapCallSettings, projectFolder: string) => soapClient(settings, projectFolder),
});

function operationsFor({ flows: chosen }: SoapSettings, flows: readonly Flow[]): ReturnType<typeof operationsOf> {
  const known = new Map(flows.map((flow) => [flow.name, flow]));
  const found =
    chosen.length === 0
      ? flows.filter(({ request }) => request !== undefined)
      : chosen.map((name) => known.get(name) ?? unknown(name, [...known.keys()]));
  try {
    return operationsOf(found);
  } catch (cause) {
    throw new Error(`soap: ${(cause as Error).message}`, { cause });
  }
}

function unknown(name: string, flows: readonly string[]): never {
  throw new Error(`soap: adapters.soap.flows names "${name}", and there is no such flow${didYouMean(name, flows)}`);
}

/** Who asks when no key is sent must exist, and makes a public address open to everybody, as if there were no principals. */
function refusePublic(settings: SoapSettings, { access }: AdapterContext): void {
  const { principal } = settings;
  if (principal !== '' && access.byName(principal) === undefined) throw new Error(`soap: there is no principal "${principal}" in hub.yaml`);
  const { host, open } = settings;
  if (principal !== '' && !open && !isLoopback(host)) {
    throw new Error(
      `soap: adapters.soap.principal makes everybody who reaches ${host} "${principal}": leave it empty, or listen on this machine only with HUB_SOAP_HOST=127.0.0.1, or, where something else guards it, set HUB_SOAP_OPEN=true`,
    );
  }
  refusePublicWithoutKeys('soap', settings, access);
}
