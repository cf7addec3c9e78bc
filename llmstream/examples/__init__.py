"""Examples that are meant to be copied. Each runs by itself, without a key against a local model:

    python -m llmstream.examples.flask_chat      a chat page, served by Flask
    python -m llmstream.examples.django_chat     the same page, served by Django
    python -m llmstream.examples.function_calls  functions that the model calls, in the terminal
    python -m llmstream.examples.summary FILE    a long text, with the progress of its summary

`page/` is the page of both: plain HTML, CSS and JavaScript. `react_chat/` is a page with the AI
SDK's `useChat`, for the same servers; it is built with npm, see its README.
"""

__all__ = ["django_chat", "flask_chat", "function_calls", "summary"]
