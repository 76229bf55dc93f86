from __future__ import annotations

import pytest
from django.test.utils import CaptureQueriesContext

from images.models import Image
from provenance import graph
from provenance.graph import graph_of
from provenance.reach import KINDS
from tests.factories import AttemptFactory, OutputFactory
from tests.provenance.chains import make_chain

pytestmark = pytest.mark.django_db


def nodes(found, kind):
    return {node["id"] for node in found.nodes if node["kind"] == kind}


def relations(found):
    return {(edge["from"]["kind"], edge["to"]["kind"], edge["relation"]) for edge in found.edges}


def keys(rows):
    return {row.pk for row in rows}


def test_a_tile_comes_from_its_group_its_tables_and_what_they_were_solved_on():
    chain = make_chain(3)
    make_chain(2)
    found = graph_of(kind="image", pk=chain.tiles[1].pk)
    assert nodes(found, "subband_group") == keys([chain.groups[0], chain.groups[1]])
    assert nodes(found, "measurement_set") == keys([chain.raw[0], chain.raw[1], chain.calibrated[1]])
    assert nodes(found, "flag_table") == keys([chain.flags[0], chain.flags[1]])
    assert nodes(found, "calibration_table") == keys(chain.tables)
    assert nodes(found, "image") == keys([chain.tiles[1], chain.mosaic])
    assert nodes(found, "catalogue") == {chain.tiles[1].catalogue.pk, chain.mosaic.catalogue.pk}
    assert relations(found) == {
        ("measurement_set", "subband_group", "derived_from"),
        ("measurement_set", "measurement_set", "derived_from"),
        ("flag_table", "measurement_set", "derived_from"),
        ("calibration_table", "measurement_set", "derived_from"),
        ("calibration_table", "flag_table", "derived_from"),
        ("measurement_set", "calibration_table", "calibrated_with"),
        ("measurement_set", "flag_table", "calibrated_with"),
        ("image", "measurement_set", "derived_from"),
        ("image", "image", "coadded_from"),
        ("catalogue", "image", "measured_on"),
    }


def test_all_that_a_table_went_into_is_found_and_nothing_of_another():
    chain, other = make_chain(3), make_chain(2)
    found = graph_of(kind="calibration_table", pk=chain.tables[0].pk)
    assert nodes(found, "image") == keys([*chain.tiles, chain.mosaic])
    assert nodes(found, "measurement_set") == keys([chain.raw[0], *chain.calibrated])
    assert not nodes(found, "image") & keys([*other.tiles, other.mosaic])
    assert nodes(found, "calibration_table") == {chain.tables[0].pk}


@pytest.mark.parametrize("kind", KINDS)
def test_the_group_of_the_calibrator_reaches_every_kind_and_is_reached_from_each(kind):
    chain = make_chain(2)
    down = graph_of(kind="subband_group", pk=chain.groups[0].pk)
    assert nodes(down, kind)
    for pk in nodes(down, kind):
        assert chain.groups[0].pk in nodes(graph_of(kind=kind, pk=pk), "subband_group")


def test_a_catalogue_is_as_suspect_as_its_image():
    chain = make_chain(2)
    Image.objects.filter(pk=chain.tiles[0].pk).update(is_suspect=True)
    shown = graph_of(kind="subband_group", pk=chain.groups[0].pk).nodes
    suspect = {(node["kind"], node["id"]) for node in shown if node["is_suspect"]}
    assert suspect == {("image", chain.tiles[0].pk), ("catalogue", chain.tiles[0].catalogue.pk)}


def test_an_edge_names_only_nodes_that_are_shown_once():
    chain = make_chain(3)
    found = graph_of(kind="calibration_table", pk=chain.tables[0].pk)
    shown = [(node["kind"], node["id"]) for node in found.nodes]
    assert len(shown) == len(set(shown))
    ends = [(edge[end]["kind"], edge[end]["id"]) for edge in found.edges for end in ("from", "to")]
    assert set(ends) <= set(shown)


def test_a_node_says_which_attempt_made_it_with_what():
    chain = make_chain(2)
    AttemptFactory()
    attempt = AttemptFactory()
    OutputFactory(attempt=attempt, measurement_set=None, image=chain.tiles[0])
    found = graph_of(kind="image", pk=chain.tiles[0].pk)
    node = next(node for node in found.nodes if (node["kind"], node["id"]) == ("image", chain.tiles[0].pk))
    assert (node["attempt"], node["item"]) == (attempt.pk, attempt.item_id)
    assert node["versions"] == chain.tiles[0].versions
    assert node["name"] == f"{chain.tiles[0].name} tile"


def test_the_number_of_queries_does_not_grow(django_assert_max_num_queries):
    from django.db import connection

    few, many = make_chain(2), make_chain(6)
    taken = []
    for chain in (few, many):
        with CaptureQueriesContext(connection) as queries:
            graph_of(kind="calibration_table", pk=chain.tables[0].pk)
        taken.append(len(queries))
    assert taken[0] == taken[1] <= 15


def test_of_too_many_the_first_are_shown_and_the_others_counted(monkeypatch):
    monkeypatch.setattr(graph, "MOST_NODES", 2)
    chain = make_chain(4)
    found = graph_of(kind="image", pk=chain.mosaic.pk)
    assert found.left_out["image"] == 3
    assert chain.mosaic.pk in nodes(found, "image")
