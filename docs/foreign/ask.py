import json, sys, uuid, pika

connection = pika.BlockingConnection(pika.URLParameters(sys.argv[1]))
channel = connection.channel()
queue = channel.queue_declare('', exclusive=True).method.queue
mine = str(uuid.uuid4())
channel.basic_publish(
    'hub.requests', 'hello', json.dumps({'name': 'Ada'}),
    pika.BasicProperties(reply_to=queue, correlation_id=mine, content_type='application/json'))
for method, properties, body in channel.consume(queue, auto_ack=True, inactivity_timeout=10):
    if properties and properties.correlation_id == mine:
        print(properties.type, body.decode())
    break
connection.close()
