"""A requestor that hears more than its reply, and answers what it is asked: no code of the hub.

foreign_talker.py <url> <exchange> <flow> <body> <wants parts: 0 or 1> <answer to each question>...: what comes, as JSON lines on stdout.
"""
import json, sys, time, pika

url, exchange, flow, body, parts, *answers = sys.argv[1:]

connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
own = channel.queue_declare('', exclusive=True).method.queue
done = []
asked = set()


def hear(_channel, _method, properties, heard):
    headers = properties.headers or {}
    if properties.type == 'ask':
        # The same question may come twice.
        if headers['hub-question'] in asked:
            return
        asked.add(headers['hub-question'])
    line = {'type': properties.type, 'body': json.loads(heard), 'for': properties.correlation_id, 'headers': headers}
    print(json.dumps(line, default=str), flush=True)
    if properties.type == 'ask':
        channel.basic_publish(exchange, headers['hub-answer-to'], answers.pop(0),
                              pika.BasicProperties(reply_to=own, correlation_id='the answer'), mandatory=True)
    elif properties.type == 'reply':
        done.append(heard)


channel.basic_consume(own, hear, auto_ack=True)
channel.basic_publish(exchange, flow, body, pika.BasicProperties(
    reply_to=own, correlation_id='mine ☎', headers={'parts': True} if parts == '1' else {}), mandatory=True)
until = time.monotonic() + 15
while not done and time.monotonic() < until:
    connection.process_data_events(time_limit=0.2)
connection.close()
