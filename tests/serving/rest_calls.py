"""Calls of the REST interface without a network, as several modules of this folder make them."""

import json

from werkzeug.test import Client as WebClient

from serving import server as server_lib

SHOP = "/v1/models/shop"
NUMBERS = "/v1/models/numbers"


def web_client(store):
    """Asks a REST interface of these models, without a server."""
    return WebClient(server_lib.RestApi(store, log=lambda line: None))


def post(web, path, document, **options):
    """The status and the JSON of the answer to a POST request; bytes are sent as they are."""
    data = document if isinstance(document, bytes) else json.dumps(document)
    response = web.post(path, data=data, **options)
    assert response.headers["Content-Type"] == "application/json"
    return response.status_code, json.loads(response.data)


def get(web, path):
    """The status and the JSON of the answer to a GET request."""
    response = web.get(path)
    assert response.headers["Content-Type"] == "application/json"
    return response.status_code, json.loads(response.data)


def available(version):
    """What the status of a model says of a version that is served."""
    return {"version": str(version), "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
