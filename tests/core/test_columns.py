"""Names of columns that a user's table brings along."""

from wsss.core.csv_text import carried_columns, carried_names


def test_no_carried_column_is_taken_for_one_of_ours() -> None:
    found = carried_names(["gene", "Source", "0", "a:b", "=x", "Gene"])
    assert found == {"gene": "gene", "Source": "given_Source", "0": "given_0", "a:b": "a_b", "=x": "x", "Gene": "Gene_"}
    assert carried_columns(found.values()) == list(found.values())
    assert carried_columns(["ID", "cell_id", "0", "cam_scores:0", "gene"]) == ["gene"]
