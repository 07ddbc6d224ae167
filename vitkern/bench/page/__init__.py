"""All results of a folder as one page of HTML that needs no network and no server.

:mod:`~vitkern.bench.page.lines`
    what the files say, one line a subject, system and precision, whoever measured it.
:mod:`~vitkern.bench.page.history`
    earlier lines beside the newest, and what is slower beyond noise.
:mod:`~vitkern.bench.page.chart`
    bars as SVG, for the page and for pictures.
:mod:`~vitkern.bench.page.render`
    the page; ``page.html``, ``page.css`` and ``page.js`` beside it are its parts.
:mod:`~vitkern.bench.page.measuring`
    runs the benchmarks that the page shows, and keeps each row as it comes.
"""
