"""The addresses of Django's example, and those of a plain relay."""

from django.urls import include, path
from django.views.decorators.csrf import csrf_exempt
from served_chat import plain_answer, plain_file

urlpatterns = [
    path("plain/", plain_file),
    path("plain/answers", csrf_exempt(plain_answer)),
    path("plain/<str:name>", plain_file),
    path("", include("llmstream.examples.django_chat.urls")),
]
