"""A plain RPC client, as anybody would write it: no code of the hub.

foreign_requestor.py <url> <exchange>: one message as JSON per line on stdin, the replies as JSON lines on stdout.
  {"flow", "body", "direct": bool, "oneWay": bool, "properties": {...}, "leave": bool (hang up without waiting)}
"""
import json, sys, time, pika

url, exchange = sys.argv[1:]


def shown(properties, body):
    known = {name: value for name, value in vars(properties).items() if value is not None}
    return json.dumps({'body': body.decode(), 'properties': known}, default=str)


connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.confirm_delivery()
own = channel.queue_declare('', exclusive=True).method.queue
expected = 0
got = []


def hear(_channel, _method, properties, body):
    got.append(body)
    print(shown(properties, body), flush=True)


channel.basic_consume(own, hear, auto_ack=True)
channel.basic_consume('amq.rabbitmq.reply-to', hear, auto_ack=True)
for line in sys.stdin:
    message = json.loads(line)
    properties = pika.BasicProperties(**message.get('properties', {}))
    if not message.get('oneWay'):
        properties.reply_to = 'amq.rabbitmq.reply-to' if message.get('direct') else own
        expected += not message.get('leave')
    # mandatory: raises when the exchange has no queue for it
    channel.basic_publish(exchange, message['flow'], message['body'], properties, mandatory=True)
until = time.monotonic() + 15
while len(got) < expected and time.monotonic() < until:
    connection.process_data_events(time_limit=1)
connection.close()
