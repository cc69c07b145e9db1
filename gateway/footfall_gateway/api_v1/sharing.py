"""Operations about what too many share: values that rules do not use, and identities used on many devices."""

from typing import Annotated, Any, Final

import msgspec
from footfall.identity.v1 import contact_pb2
from footfall.identity.v1 import identity_service_pb2 as identity
from msgspec import Meta
from starlette.responses import Response

from footfall_gateway.api_v1 import resources
from footfall_gateway.auth import KeyScope
from footfall_gateway.backends import Backends
from footfall_gateway.fields import ContactId, IdentityId, NextPageToken, Time
from footfall_gateway.history_api import milliseconds
from footfall_gateway.http import Call, NoQuery, Operation, json_response

_MAX_VALUES: Final = 100
_PAGE_TOKEN: Final = Meta(description="`nextPageToken` of the previous response.")


class ValuesQuery(msgspec.Struct):
    """One page of generic values."""

    page_size: Annotated[int, Meta(description="Maximum number of values.", ge=1, le=_MAX_VALUES)] = 50
    page_token: Annotated[str, _PAGE_TOKEN] = ""


class SharedQuery(msgspec.Struct):
    """One page of shared identities."""

    page_size: Annotated[int, Meta(description="Maximum number of identities.", ge=1, le=1_000)] = 50
    page_token: Annotated[str, _PAGE_TOKEN] = ""


class GenericValue(msgspec.Struct, rename="camel"):
    """A value that more than `IDENTITY_MAX_IDENTITIES_PER_VALUE` identities give: rules do not use it for links."""

    value_id: Annotated[str, Meta(description="Its name in requests, random: it may stand in logs.")]
    rule: Annotated[resources.LinkRule | None, Meta(description="The rule that compares it.")]
    value: Annotated[str, Meta(description="The value as the rule compares it, for instance in lower case.")]
    assurance: Annotated[
        resources.Assurance | None,
        Meta(
            description="`claimed`: rules use it where a token proves it. `proven`: too many identities give it with a "
            "proof. null: it is no longer generic, and was allowed while it was."
        ),
    ]
    since_time: Annotated[Time | None, Meta(description="Since when (ms); null: it is no longer generic.")]
    identity_count: Annotated[int, Meta(description="How many identities give it, at most 1,000.", ge=0)]
    allowed: Annotated[bool, Meta(description="Whether rules use it all the same, by decision of a person.")]
    actor: Annotated[
        resources.Name, Meta(description="Who has decided that last: the name of the key, and the person after `/`.")
    ]
    decide_time: Annotated[Time | None, Meta(description="When (ms); null without a decision.")]


class GenericValues(msgspec.Struct, rename="camel"):
    """Generic values, in no order that means something."""

    values: Annotated[list[GenericValue], Meta(description="One page of values. May be empty although more follow.")]
    next_page_token: NextPageToken | None


class ValueDecision(msgspec.Struct, rename="camel"):
    """Whether rules may use a generic value."""

    allowed: Annotated[bool, Meta(description="Whether rules may use it.")]
    actor: resources.Actor = ""


class SharedIdentity(msgspec.Struct, rename="camel"):
    """An identity that was used on more than `IDENTITY_MAX_DEVICES_PER_DAY` devices on a day."""

    identity_id: IdentityId
    contact_id: Annotated[ContactId | None, Meta(description="The contact that it is linked to; null: none.")]
    device_days: resources.DeviceDays
    last_event_time: Annotated[Time, Meta(description="When an event named it last (ms).")]


class SharedIdentities(msgspec.Struct, rename="camel"):
    """Shared identities, in the order of their ids."""

    identities: Annotated[list[SharedIdentity], Meta(description="One page of identities.")]
    next_page_token: NextPageToken | None


class SharingApi:
    """Generic values and shared identities. They are counted over all sites, so keys of some sites see none of it."""

    def __init__(self, backends: Backends) -> None:
        self._ask = backends.ask
        self._identity = backends.identity

    def operations(self) -> list[Operation[Any, Any]]:
        """The operations."""
        return [
            Operation("listGenericValues", "GET", "/generic-values", self.values, ValuesQuery, GenericValues),
            Operation(
                "decideGenericValue",
                "PUT",
                "/generic-values/{valueId}",
                self.decide,
                NoQuery,
                GenericValue,
                ValueDecision,
                KeyScope.CONTACTS,
                example={"allowed": True},
            ),
            Operation(
                "listSharedIdentities", "GET", "/shared-identities", self.identities, SharedQuery, SharedIdentities
            ),
        ]

    async def values(self, call: Call[ValuesQuery, None]) -> Response:
        """E-mail addresses, telephone numbers and names that too many identities give.

        Also those that were allowed, until no identity gives them.
        """
        request = identity.ListGenericValuesRequest(**msgspec.structs.asdict(call.query))
        response = await self._ask(self._identity.ListGenericValues, request, call.principal)
        return json_response(GenericValues([*map(_value, response.values)], response.next_page_token or None))

    async def decide(self, call: Call[NoQuery, ValueDecision]) -> Response:
        """Allow rules to use a generic value, or forbid it again. Links are evaluated again in the background.

        Links by hand stay. The decision holds however many identities give the value, and is forgotten when none does.
        """
        request = identity.DecideGenericValueRequest(
            value_id=call.path["valueId"],
            allowed=call.body.allowed,
            actor=resources.actor(call.principal.name, call.body.actor),
        )
        response = await self._ask(self._identity.DecideGenericValue, request, call.principal)
        return json_response(_value(response.value))

    async def identities(self, call: Call[SharedQuery, None]) -> Response:
        """Identities that were used on too many devices on a day: kiosks, or agents who sign in for customers.

        Rules link them only by what a token proves. The states of their visitors do not change by it.
        """
        call.principal.require_all_sites()
        request = identity.ListIdentitiesRequest(**msgspec.structs.asdict(call.query), shared_only=True)
        response = await self._ask(self._identity.ListIdentities, request, call.principal)
        found = [
            SharedIdentity(
                one.identity_id,
                one.contact_id or None,
                resources.device_days(one),
                milliseconds(one.update_time),
            )
            for one in response.identities
        ]
        return json_response(SharedIdentities(found, response.next_page_token or None))


def _value(stored: contact_pb2.GenericValue) -> GenericValue:
    return GenericValue(
        value_id=stored.value_id,
        rule=resources.link_rule(stored.rule),
        value=stored.value,
        assurance=resources.assurance(stored.assurance),
        since_time=milliseconds(stored.since_time) if stored.HasField("since_time") else None,
        identity_count=stored.identity_count,
        allowed=stored.allowed,
        actor=stored.actor,
        decide_time=milliseconds(stored.decide_time) if stored.HasField("decide_time") else None,
    )
