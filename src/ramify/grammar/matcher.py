"""The grammar of one row: what may follow, what must, and whether it is over.

    free ........ after is said | grammar ......................... over
    everything but EOS          | only what the grammar allows      EOS or nothing

Forced tokens are decided once, at the token after which they are forced: from there the mask admits the next of them
and no other. So a row that is given them says the same as a row that samples them one by one. The library has taken
them by then: what follows them is found out with them, and accepting them is no work.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ramify.grammar.constraint import GrammarFault
from ramify.grammar.library import Mask, Session
from ramify.grammar.prelude import Prelude
from ramify.grammar.vocabulary import Vocabulary


class Matcher:
    """`position` counts the tokens accepted. Not safe for use by two threads at once."""

    def __init__(self, session: Session, vocabulary: Vocabulary, prelude: Prelude | None = None) -> None:
        self._session = session  # stands behind the last of `_tokens`
        self._vocabulary = vocabulary
        self._prelude = prelude
        self._states = [0] if prelude else []  # of the prelude: before each of its tokens, and after the last
        self._tokens: list[int] = []  # of the grammar: accepted, then forced ones that are not yet
        self._run_ends: list[int] = []  # for each of them: where its run of forced tokens ends, 0 if it was sampled
        self._taken = 0  # how many of them are accepted
        self._row: Mask | None = None  # what may follow the last of them; None: not looked, or more is forced
        self._ended = False  # EOS was accepted

    # -- where it stands ---------------------------------------------------------------------------------------------

    @property
    def position(self) -> int:
        return max(len(self._states) - 1, 0) + self._taken + self._ended

    @property
    def is_free(self) -> bool:
        """The grammar has not begun: what ends the free part is still to come."""
        return self._prelude is not None and self._states[-1] < self._prelude.end

    @property
    def can_stop(self) -> bool:
        """The output may end here."""
        return self._ended or (not self.is_free and self._taken == len(self._tokens) and self._session.can_stop)

    @property
    def finished(self) -> bool:
        """The output must end here: EOS was accepted, or nothing else may follow."""
        return self._ended or (not self.is_free and self._taken == len(self._tokens) and self._session.must_stop)

    @property
    def is_known(self) -> bool:
        """What may follow is known, and `look` has nothing to do."""
        return self.is_free or self._row is not None or self._taken < len(self._tokens)

    @property
    def warnings(self) -> list[str]:
        """What of a schema is not enforced, where it was not strict."""
        return self._session.warnings

    # -- what may follow ---------------------------------------------------------------------------------------------

    def mask(self, out: Mask) -> None:
        """Fill a row of `vocabulary.words` 32-bit words: bit t is set where token t may come next.

        Raises `GrammarFault` where computing it exceeds the library's fuel.
        """
        if self.is_free:
            assert self._prelude is not None
            np.copyto(out, self._prelude.mask(self._states[-1]))
            return
        forced = self.forced()
        if forced:
            out[:] = 0
            out.view(np.uint32)[forced[0] // 32] = 1 << forced[0] % 32
        else:
            assert self._row is not None
            np.copyto(out, self._row)

    def forced(self) -> list[int]:
        """The tokens that must follow, in canonical encoding; empty where there is a choice, or nothing follows."""
        self.look()
        return self._tokens[self._taken :]

    def look(self) -> None:
        """Find out what may follow, which is the work of a step: what else is asked of this place is known then.

        May run on another thread, as long as nothing else is asked meanwhile. The mask comes first: computing it
        releases the GIL, and leaves little to do for the forced tokens.
        """
        if self.is_known:
            return
        run = self._find()
        for token in run:
            self._session.take(token)
        self._run_ends += [len(self._tokens) + len(run)] * len(run)
        self._tokens += run
        if run:
            self._find()

    def _find(self) -> list[int]:
        """What must follow where the session stands; where nothing must, remember what may."""
        row = np.zeros(self._vocabulary.words, np.int32)
        self._session.mask(row)
        run = [] if self._session.must_stop else self._session.forced()
        self._row = None if run else row
        return run

    def admitted(self, tokens: Sequence[int]) -> int:
        """How many of these tokens, which were guessed, the masks would let through one after the other."""
        count = 0
        try:
            while count < len(tokens) and not self.finished and self._admits(tokens[count]):
                self.accept(tokens[count])
                count += 1
        finally:
            self.rollback(count)
        return count

    def _admits(self, token: int) -> bool:
        if self.is_free:
            assert self._prelude is not None
            return bool(self._prelude.mask(self._states[-1]).view(np.uint32)[token // 32] >> token % 32 & 1)
        forced = self.forced()
        if forced:
            return forced[0] == token
        return self.can_stop if token in self._vocabulary.eos else self._session.admitted([token]) == 1

    # -- moving ------------------------------------------------------------------------------------------------------

    def accept(self, token: int) -> None:
        """Go on by a token that the mask let through; raises `GrammarFault` for any other."""
        if self.is_free:
            assert self._prelude is not None
            self._states.append(self._prelude.step(self._states[-1], token))
            return
        if token in self._vocabulary.eos and not self.forced():
            self._end()
            return
        forced = self.forced()
        if forced and forced[0] != token:
            raise GrammarFault(f"token {token} is not the one that the grammar forces")
        if not forced:
            self._session.take(token)
            self._tokens.append(token)
            self._run_ends.append(0)
            self._row = None
        self._taken += 1

    def _end(self) -> None:
        if not self.can_stop:
            raise GrammarFault("the output ended where the grammar does not")
        self._ended = True

    def rollback(self, count: int) -> None:
        """Take back the last `count` tokens accepted."""
        assert 0 <= count <= self.position
        if count and self._ended:
            self._ended = False
            count -= 1
        back = min(count, self._taken)
        if back:
            self._taken -= back
            self._forget()
        if count > back:
            del self._states[-(count - back) :]

    def _forget(self) -> None:
        """What is not accepted any more; but a forced token is forced again, and so is the rest of its run."""
        known = self._run_ends[self._taken] or self._taken
        if known == len(self._tokens):
            return
        self._session.rollback(len(self._tokens) - known)
        del self._tokens[known:], self._run_ends[known:]
        self._row = None

    def restart(self, beginning: Matcher) -> None:
        """Stand at the same place, with the same tokens forced, in another copy of the grammar."""
        self._session, self._row = beginning._session.clone(), None
        self._session.rollback(len(beginning._tokens))
        for token in self._tokens:
            self._session.take(token)

    def clone(self) -> Matcher:
        """Another at the same place, for `n` choices or a branch of guesses."""
        twin = Matcher(self._session.clone(), self._vocabulary, self._prelude)
        twin._states, twin._tokens = self._states[:], self._tokens[:]
        twin._run_ends, twin._taken = self._run_ends[:], self._taken
        twin._row, twin._ended = self._row, self._ended
        return twin
