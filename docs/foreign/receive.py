import base64, hashlib, hmac, os, time
from http.server import BaseHTTPRequestHandler, HTTPServer

SECRET = base64.b64decode(os.environ['CALLBACK_SECRET'].removeprefix('whsec_'))
seen = set()  # yours should outlive the process

def is_genuine(headers, body):
    stamp = headers['webhook-timestamp']
    if abs(time.time() - int(stamp)) > 300:
        return False
    signed = f"{headers['webhook-id']}.{stamp}.".encode() + body
    expected = 'v1,' + base64.b64encode(hmac.new(SECRET, signed, hashlib.sha256).digest()).decode()
    return any(hmac.compare_digest(expected, one) for one in headers['webhook-signature'].split())

class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers['content-length']))  # the bytes as they came
        if not is_genuine(self.headers, body):
            return self.send(401)
        if self.headers['webhook-id'] not in seen:
            seen.add(self.headers['webhook-id'])
            print(self.headers['hub-request-id'], self.headers['hub-state'], body.decode(), flush=True)
        self.send(204)

    def send(self, status):
        self.send_response(status)
        self.end_headers()

    def log_message(self, *_):
        pass

server = HTTPServer(('127.0.0.1', int(os.environ.get('PORT', '9000'))), Receiver)
print(f'http://127.0.0.1:{server.server_port}', flush=True)
server.serve_forever()
