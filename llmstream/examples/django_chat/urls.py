"""The addresses of the example."""

from django.urls import path

from . import views

__all__ = ["urlpatterns"]

urlpatterns = [
    path("", views.show_page),
    path("answers", views.begin),
    path("answers/<str:id>", views.go_on),
    path("answers/<str:id>/stop", views.stop),
    path("<path:name>", views.show_file),
]
