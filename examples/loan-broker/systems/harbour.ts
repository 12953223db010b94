/**
 * Harbour Bank: a legacy system for the demo, a SOAP service that knows nothing of the hub. `answerback dev` starts what
 * is in `systems/`; it says `ready` over IPC and ends when that channel closes.
 */
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { listen } from 'soap';

interface Quote {
  readonly amount: string;
  readonly termMonths: string;
  readonly score: string;
}

const port = 8089;
const wsdl = readFileSync(new URL('./harbour.wsdl', import.meta.url), 'utf8');
const server = createServer((_request, response) => response.writeHead(404).end());

listen(
  server,
  '/quotes',
  {
    HarbourBank: {
      Quotes: {
        Quote: ({ score, termMonths }: Quote) => ({
          bank: 'harbour',
          rate: Math.round((3.3 + (850 - Number(score)) / 200 + Number(termMonths) / 120) * 100) / 100,
        }),
      },
    },
  },
  wsdl,
);

server.on('error', (error) => {
  // A second demo on this machine uses the bank of the first.
  const answer = fetch(`http://127.0.0.1:${port}/quotes?wsdl`).then((response) => response.text());
  void answer
    .catch(() => '')
    .then((wsdlOfOther) => {
      if (wsdlOfOther.includes('HarbourBank')) return process.send?.('ready');
      process.stderr.write(`Harbour Bank cannot listen on 127.0.0.1:${port}: ${error.message}. End what uses that port.\n`);
      return process.exit(1);
    });
});
server.listen(port, '127.0.0.1', () => process.send?.('ready'));
process.on('disconnect', () => process.exit(0));
process.on('SIGTERM', () => process.exit(0));
