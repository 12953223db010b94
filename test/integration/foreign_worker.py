"""A plain RPC server, as anybody would write it: no code of the hub.

foreign_worker.py <url> <queue>: answers {"n": …} with {"price": n * 10}, and anything else with a fault. Prints "ready", then each
message that it gets as a JSON line.
"""
import json, sys, pika

url, queue = sys.argv[1:]
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.basic_qos(prefetch_count=10)


def serve(channel, method, properties, body):
    known = {name: value for name, value in vars(properties).items() if value is not None}
    print(json.dumps({'body': body.decode(), 'properties': known, 'exchange': method.exchange, 'routingKey': method.routing_key}, default=str), flush=True)
    order = json.loads(body)
    answer = pika.BasicProperties(correlation_id=properties.correlation_id)
    if 'n' in order:
        answer.content_type = 'application/json'
        result = {'price': order['n'] * 10}
    else:
        answer.type = 'fault'
        result = {'code': 'rejected', 'message': 'we do not sell that'}
    channel.basic_publish('', properties.reply_to, json.dumps(result), answer)
    channel.basic_ack(method.delivery_tag)


channel.basic_consume(queue, serve)
print('ready', flush=True)
channel.start_consuming()
