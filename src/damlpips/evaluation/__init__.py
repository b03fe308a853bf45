"""How well a metric agrees with people: judged image sets, figures of agreement, and any metric by name.

    datasets/                        judged sets on disk; its docstring says how to add a layout
    judgements                       what observers said: a kind of judgement has its figures in `figures.FIGURES`
    named, peers, custom             a metric by its name; another library's is a row of the tables in `peers`,
                                     one's own a callable in a file
    others, features                 what `damlpips score` computes beside its first metric, and the network of FID
    views, distances, cache          pairs of files to distances, kept between runs
    correlation, logistic, votes     the figures of agreement, as functions of columns
    figures, means                   the figures of a set, and their mean over sets, with intervals
    challenge, ladders               cases and distortions in which everybody knows what is closer
    agreement, tables, plots         metrics on sets, as text and as files

It may import everything but `damlpips.cli` and `damlpips.calibration`; of the package, only these import it. Importing
it loads neither torch nor SciPy.
"""
