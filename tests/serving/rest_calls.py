"""Calls of the REST interface, as several modules of this folder make them."""

import json

SHOP = "/v1/models/shop"
NUMBERS = "/v1/models/numbers"


def post(web, path, document, **options):
    """The status and the JSON of the answer to a POST request; bytes are sent as they are."""
    data = document if isinstance(document, bytes) else json.dumps(document)
    response = web.post(path, content=data, **options)
    assert response.headers["Content-Type"] == "application/json"
    return response.status_code, response.json()


def get(web, path):
    """The status and the JSON of the answer to a GET request."""
    response = web.get(path)
    assert response.headers["Content-Type"] == "application/json"
    return response.status_code, response.json()


def available(version):
    """What the status of a model says of a version that is served."""
    return {"version": str(version), "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
