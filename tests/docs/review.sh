# What of docs/review.md is run, in its order; see scripts/run_docs.py. The page itself is tested in a browser.

#: skip wsss review --preds preds/mine
#: reason waits for a browser

#: skip ssh -L 8000:127.0.0.1:8000 user@host
#: reason needs another machine

#: skip wsss review --preds preds/new --out reviews/mine --summary
#: reason needs answers; tests/stages/test_review_command.py gives some

#: skip wsss calibrate --preds preds/mine --truth reviews/mine/cells_truth.csv
#: reason needs answers; tests/stages/test_calibrate_command.py has such a table

#: skip wsss train --data data/mine --config natural_cells --fold all --run runs/mine --cell_labels reviews/mine/cells_truth.csv
#: reason needs answers; tests/feature_classifier/test_feature_classifier.py gives some

#: skip wsss compare --preds preds/mine --by drug --reference DMSO
#: reason needs conditions; tests/stages/test_compare_command.py has some
