"""The network: how a request gets to a service, and how its response is read.

`base` has the two protocols that the rest of the package knows, `Transport` and `Response`.
`adapter` implements them over requests and urllib3. No other part of a call imports sockets, ssl,
http.client, requests or urllib3; a test (tests/test_architecture.py) proves it.
"""
