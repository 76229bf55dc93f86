# The two commands are `make demo` and `make test`; README.md spells both out without make.
PYTHON ?= python3.11
PY = .venv/bin/python

.PHONY: demo run test check lock clean

demo: .venv/base
	CONTIMG_ENV_FILE=demo.env $(PY) manage.py demo

run: .venv/base
	CONTIMG_ENV_FILE=demo.env .venv/bin/granian --interface wsgi --workers 2 --blocking-threads 4 contimg.wsgi:application

test: .venv/dev
	tests/run

check: .venv/dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy --cache-dir=/dev/null .  # with a warm cache django-stubs forgets the related managers
	.venv/bin/lint-imports
	$(PY) manage.py check --fail-level WARNING
	$(PY) manage.py makemigrations --check --dry-run
	$(PY) manage.py spectacular --validate --fail-on-warn --file /dev/null

.venv/base: requirements/base.txt
	test -x $(PY) || $(PYTHON) -m venv .venv || python3 -m venv .venv
	$(PY) -m pip install --quiet --require-hashes -r requirements/base.txt
	touch $@

.venv/dev: .venv/base requirements/prod.txt requirements/dev.txt
	$(PY) -m pip install --quiet --require-hashes -r requirements/prod.txt -r requirements/dev.txt
	touch $@

# New locks, resolved against the public index for every Python from 3.11 on. Extras stay named: pip refuses a lock
# that pins `coverage` when something asks for `coverage[toml]` and a newer release is out.
lock: .venv/dev
	for name in base prod dev; do \
	  .venv/bin/uv pip compile --quiet --universal --no-strip-extras --python-version 3.11 --generate-hashes --no-header \
	    --no-config --default-index https://pypi.org/simple --no-emit-index-url \
	    requirements/$$name.in -o requirements/$$name.txt || exit 1; done

clean:
	rm -rf demo .coverage* .pytest_cache .mypy_cache .ruff_cache
