"""Asks a MongoDB server whether an index serves a command."""

from typing import Any


def filters_of(command: Any) -> list[Any]:
    """The filters of a command on documents, of an aggregation the whole first stage; none of an insert."""
    match next(iter(command)):
        case "find":
            return [command["filter"]]
        case "aggregate":
            return [command["pipeline"][0]["$match"]]
        case "update":
            return [update["q"] for update in command["updates"]]
        case "delete":
            return [delete["q"] for delete in command["deletes"]]
        case verb:
            assert verb == "insert"
            return []


async def assert_indexed(database: Any, command: Any) -> None:
    """Assert that an index serves every filter of a command."""
    for where in filters_of(command):
        find = {"find": command[next(iter(command))], "filter": where}
        plan = await database.command("explain", find, verbosity="queryPlanner")
        assert "COLLSCAN" not in str(plan["queryPlanner"]["winningPlan"]), find
