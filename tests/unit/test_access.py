"""Every method of a service is allowed to roles, and to keys with exactly one scope."""

from importlib import import_module

import pytest
from footfall.collector.v1 import collector_service_pb2 as collector
from footfall.history.v1 import history_service_pb2 as history
from footfall.identity.v1 import identity_service_pb2 as identity
from footfall_eventlog.keys import KeyScope

CONTRACTS = {"collector": collector, "identity": identity, "history": history}


@pytest.mark.parametrize("service", CONTRACTS)
def test_each_method_has_one_scope_and_some_role(service: str) -> None:
    access = import_module(f"footfall_{service}.access")
    [contract] = CONTRACTS[service].DESCRIPTOR.services_by_name.values()
    methods = sorted(contract.methods_by_name)
    assert sorted(name for names in access.SCOPES.values() for name in names) == methods
    assert access.SCOPES.keys() <= {*KeyScope}
    assert sorted({name for names in access.ACCESS.values() for name in names}) == methods
