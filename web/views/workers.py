"""The page of workers: which engine predicts on which machine, and the results of proofs. For admins."""

from apiflask import APIBlueprint
from flask import render_template

from db.database import read_scope
from db.registry.engine_proofs import list_concerns, list_servings
from web.security.guards import guard_admin_pages

blueprint = APIBlueprint("workers", __name__, url_prefix="/workers", enable_openapi=False)
guard_admin_pages(blueprint)


@blueprint.get("")
def index() -> str:
    """Show the problems that an operator should look at, and then the newest proofs by host."""
    with read_scope() as s:
        servings = list_servings(s)
        concerns = list_concerns(s, servings)
    return render_template("models/workers.html", servings=servings, concerns=concerns)
