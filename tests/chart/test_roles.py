"""The roles of the chart grant what the operator uses, no more, and in no more places."""

from typing import Any

import pytest
from tests.rendered_chart import (
    EVERYTHING_ON,
    NAMESPACE,
    RELEASE,
    Object,
    find,
    nested,
    of_kind,
    render,
)

from sampler_operator.kube.rights import CLUSTER_RIGHTS, NODE_RIGHTS, RIGHTS, Right

TEAMS = ["team-a", "team-b"]
SOME = {"watchNamespaces": TEAMS}
NODES = f"{RELEASE}-nodes"


def rights(role: Object) -> set[Right]:
    """What a role grants."""
    return {
        Right(verb, group, resource)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def subjects(objects: list[Object], kind: str, role: str) -> list[tuple[str, Any]]:
    """Who has ``role``, and in which namespace."""
    return [
        (subject["name"], each["metadata"].get("namespace"))
        for each in of_kind(objects, kind)
        if each["roleRef"]["name"] == role
        for subject in each["subjects"]
    ]


def test_for_all_namespaces_the_operator_has_one_role_and_one_for_nodes() -> None:
    objects = render()
    assert rights(find(objects, "ClusterRole")) == {*RIGHTS, *CLUSTER_RIGHTS}
    assert rights(find(objects, "ClusterRole", NODES)) == set(NODE_RIGHTS)
    assert subjects(objects, "ClusterRoleBinding", RELEASE) == [(RELEASE, None)]
    assert subjects(objects, "ClusterRoleBinding", NODES) == [(RELEASE, None)]
    assert of_kind(objects, "Role") == of_kind(objects, "RoleBinding") == []


def test_for_some_namespaces_it_has_a_role_in_each_and_none_in_the_cluster() -> None:
    objects = render(SOME)
    for team in TEAMS:
        assert rights(find(objects, "Role", namespace=team)) == set(RIGHTS)
    granted = subjects(objects, "RoleBinding", RELEASE)
    assert granted == [(RELEASE, team) for team in TEAMS]
    assert of_kind(objects, "ClusterRole") == of_kind(objects, "ClusterRoleBinding") == []


def test_for_some_namespaces_nodes_are_read_where_that_is_said() -> None:
    objects = render(SOME | nested("rbac.readNodes", True))
    [role] = of_kind(objects, "ClusterRole")
    assert rights(role) == set(NODE_RIGHTS)


def test_for_all_namespaces_nodes_are_not_read_where_that_is_said() -> None:
    roles = of_kind(render(nested("rbac.readNodes", False)), "ClusterRole")
    assert NODES not in {each["metadata"]["name"] for each in roles}


@pytest.mark.parametrize("values", [{}, SOME, EVERYTHING_ON], ids=["all", "some", "everything on"])
def test_nobody_gets_secrets_wildcards_or_a_way_to_more_rights(values: dict[str, Any]) -> None:
    objects = render(values)
    roles = of_kind(objects, "ClusterRole") + of_kind(objects, "Role")
    assert roles
    for right in set[Right]().union(*map(rights, roles)):
        assert "*" not in right
        assert right.resource.split("/")[0] not in {"secrets", "serviceaccounts", "nodes/proxy"}
        assert right.group not in {"rbac.authorization.k8s.io", "admissionregistration.k8s.io"}
        assert right.verb not in {"escalate", "bind", "impersonate"}


@pytest.mark.parametrize("values", [{}, SOME], ids=["all", "some"])
def test_every_binding_means_a_role_and_an_account_that_there_are(values: dict[str, Any]) -> None:
    objects = render(values)
    roles = {
        (each["kind"], each["metadata"]["name"], each["metadata"].get("namespace"))
        for kind in ("Role", "ClusterRole")
        for each in of_kind(objects, kind)
    }
    account = find(objects, "ServiceAccount")["metadata"]
    for kind in ("RoleBinding", "ClusterRoleBinding"):
        for binding in of_kind(objects, kind):
            role = binding["roleRef"]
            namespace = binding["metadata"].get("namespace")
            assert (role["kind"], role["name"], namespace) in roles
            [subject] = binding["subjects"]
            assert (subject["name"], subject["namespace"]) == (account["name"], NAMESPACE)


def test_an_account_of_somebody_else_gets_the_roles() -> None:
    objects = render({"serviceAccount": {"create": False, "name": "theirs"}})
    assert of_kind(objects, "ServiceAccount") == []
    assert subjects(objects, "ClusterRoleBinding", RELEASE) == [("theirs", None)]
    assert find(objects, "Deployment")["spec"]["template"]["spec"]["serviceAccountName"] == "theirs"


def test_jobs_that_sample_may_read_endpoint_slices_and_nothing_else() -> None:
    slices = {
        Right(verb, "discovery.k8s.io", "endpointslices") for verb in ("get", "list", "watch")
    }
    assert rights(find(render(), "ClusterRole", "sampler-client")) == slices
    for team in TEAMS:
        assert rights(find(render(SOME), "Role", "sampler-client", team)) == slices


def test_people_who_view_or_edit_a_namespace_may_view_or_edit_its_fleets() -> None:
    objects = render()
    view, edit = (find(objects, "ClusterRole", f"{RELEASE}-{word}") for word in ("view", "edit"))
    aggregate = "rbac.authorization.k8s.io/aggregate-to"
    assert view["metadata"]["labels"][f"{aggregate}-view"] == "true"
    assert edit["metadata"]["labels"][f"{aggregate}-edit"] == "true"
    assert {right.verb for right in rights(view)} == {"get", "list", "watch"}
    # The status is the operator's.
    resources = {right.resource for right in rights(edit)}
    assert resources == {"samplerdeployments", "samplerdeployments/scale"}
