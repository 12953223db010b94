"""A SOAP client of somebody else, for tests: python3-zeep, strict. One JSON call per line in, one JSON answer per line out."""
import json
import sys
from decimal import Decimal

import requests
import zeep
from lxml import etree
from zeep.helpers import serialize_object
from zeep.transports import Transport

clients = {}


def plain(value):
    if isinstance(value, Decimal):
        return {"decimal": str(value)}
    raise TypeError(type(value))


def sent(value):
    """None means "not there" to zeep; the text xsi:nil means null."""
    if isinstance(value, dict):
        return {key: sent(inside) for key, inside in value.items()}
    if isinstance(value, list):
        return [sent(inside) for inside in value]
    return zeep.xsd.Nil if value == "xsi:nil" else value


def client_of(call):
    key = (call["wsdl"], json.dumps(call.get("auth")), call.get("bearer"))
    if key not in clients:
        session = requests.Session()
        if call.get("auth"):
            session.auth = tuple(call["auth"])
        if call.get("bearer"):
            session.headers["Authorization"] = "Bearer " + call["bearer"]
        clients[key] = zeep.Client(call["wsdl"], settings=zeep.Settings(strict=True), transport=Transport(session=session, timeout=30, operation_timeout=30))
    return clients[key]


def run(call):
    client = client_of(call)
    if call.get("describe"):
        service = client.wsdl.services["HubService"]
        return {"operations": {port.name: {name: op.input.signature() for name, op in port.binding._operations.items()} for port in service.ports.values()}}
    port = client.bind("HubService", call["port"])
    try:
        return {"reply": serialize_object(port[call["operation"]](**sent(call["args"])), dict)}
    except zeep.exceptions.Fault as fault:
        detail = fault.detail[0] if fault.detail is not None and len(fault.detail) else None
        told = {} if detail is None else {etree.QName(child).localname: child.text for child in detail if len(child) == 0}
        flaws = [] if detail is None else [{etree.QName(part).localname: part.text for part in child} for child in detail if len(child) > 0]
        parsed = None if detail is None else serialize_object(client.get_element(etree.QName(detail).text).parse(detail, client.wsdl.types), dict)
        return {"fault": {"code": fault.code, "message": fault.message, "detail": told, "errors": flaws, "typed": parsed is not None}}


for line in sys.stdin:
    try:
        answer = run(json.loads(line))
    except Exception as error:  # Everything that goes wrong is an answer to the test.
        answer = {"error": type(error).__name__ + ": " + str(error)}
    print(json.dumps(answer, default=plain), flush=True)
