"""Reads turns in the form of any of the APIs, so that a conversation can go on with another one.

    what the form of one API has       becomes in another
    texts, pictures, files, audio      the same; a ConfigurationError where the API has no part for
                                       it, or where it is known by a `file_id` only
    calls of tools, their outputs      the same; free text as arguments becomes {"input": text}
                                       where arguments are JSON; pictures in an output follow it as
                                       a turn of the user where an output is a text
    that a call failed                 "Error: " before the output, where there is no field for it
    refusals, search results as input  texts
    what a service ran itself: code    texts: what was run, and its output
    and MCP calls; pictures it made    a remark
    calls of tools that the API has    calls of functions of that name
    defined and the caller runs
    searches, lists of tools           left out: the answer has what was found
    reasoning, signatures, caches      left out, but for services that want reasoning back
    references to what is stored       a ConfigurationError

A turn that is written in an API's own form already, and what no API is known to have, is sent
unchanged. New forms are a file in this folder and a row here. Pure.
"""
