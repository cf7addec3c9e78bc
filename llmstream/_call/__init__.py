"""One call, from its start to its end: Call -> Retrying -> Exchange -> CallContext.

No arrow goes back: what a lower part needs from above is passed to it as a value or a callable.
`endpoint` is a service as one client talks to it; `budget` is what all calls with the same host and
key share.
"""
