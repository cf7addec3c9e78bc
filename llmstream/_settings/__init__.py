"""The settings of a client: what a caller may pass, and where they come from otherwise.

`arguments` checks values, `client` has the settings as one value, `environment` and `keyring` find
the service and its key, `secret` keeps a key out of logs.
"""
