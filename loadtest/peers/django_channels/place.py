"""Django Channels as its tutorial makes it: a consumer that inserts a row with the ORM and sends to a Redis group.

Runs in the peer's own environment, never in ours; ``python place.py`` makes the table.
"""

import os

import django
from django.conf import settings

settings.configure(
    SECRET_KEY="loadtest",
    ALLOWED_HOSTS=["*"],
    INSTALLED_APPS=["channels"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": "127.0.0.1",
            "PORT": os.environ["PEER_DATABASE_PORT"],
            "NAME": "postgres",
            "USER": "postgres",
            # A pool is Django's own since 5.1; without one every insert could open a connection.
            "OPTIONS": {"pool": {"min_size": 4, "max_size": 16}},
        }
    },
    CHANNEL_LAYERS={
        "default": {
            "BACKEND": f"channels_redis.{os.environ['PEER_LAYER']}",
            # A hundred messages, the default, are shared by all devices of a worker; the next ones would be dropped.
            "CONFIG": {"hosts": [os.environ["PEER_REDIS"]], "capacity": 10_000},
        }
    },
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    USE_TZ=True,
)
django.setup()

from channels.db import database_sync_to_async  # noqa: E402
from channels.generic.websocket import AsyncJsonWebsocketConsumer  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.db import connection, models  # noqa: E402
from django.urls import path  # noqa: E402


class Change(models.Model):
    """One change of an account."""

    account = models.IntegerField()
    body = models.TextField()
    at = models.DateTimeField(auto_now_add=True)

    class Meta:
        app_label = "place"
        indexes = (models.Index(fields=["account", "id"], name="change_account"),)


class Consumer(AsyncJsonWebsocketConsumer):
    """A device: what it says is kept, answered and sent to its account's group."""

    async def connect(self) -> None:
        self.account = self.scope["url_route"]["kwargs"]["account"]
        await self.channel_layer.group_add(f"account.{self.account}", self.channel_name)
        await self.accept()
        await self.send_json({"ready": True})

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(f"account.{self.account}", self.channel_name)

    async def receive_json(self, content: dict) -> None:
        change = await keep(self.account, content["body"])
        await self.send_json({"kept": content["number"], "id": change.pk})
        said = {"id": change.pk, "body": change.body, "sender": self.channel_name}
        await self.channel_layer.group_send(f"account.{self.account}", {"type": "changed", **said})

    async def changed(self, event: dict) -> None:
        if event["sender"] != self.channel_name:
            await self.send_json({"id": event["id"], "body": event["body"]})


def create(account: int, body: str) -> Change:
    """One committed row."""
    return Change.objects.create(account=account, body=body)


# Django's default is one thread for all: one insert waits for the other.
keep = database_sync_to_async(create, thread_sensitive=os.environ["PEER_THREADS"] == "one thread")

application = ProtocolTypeRouter({"websocket": URLRouter([path("account/<int:account>", Consumer.as_asgi())])})

if __name__ == "__main__":
    with connection.schema_editor() as editor:
        editor.create_model(Change)
