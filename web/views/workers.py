"""Workers: which engine predicts on which machine, and the result of its proof. For admins."""

from apiflask import APIBlueprint
from flask import render_template

from db.database import read_scope
from db.registry.engine_proofs import list_concerns, list_servings
from web.security.guards import guard_admin_pages

blueprint = APIBlueprint("workers", __name__, url_prefix="/workers", enable_openapi=False)
guard_admin_pages(blueprint)


@blueprint.get("")
def index() -> str:
    """Show what an operator should look at, then the newest proofs by host."""
    with read_scope() as s:
        servings = list_servings(s)
        concerns = list_concerns(s, servings)
    return render_template("models/workers.html", servings=servings, concerns=concerns)
