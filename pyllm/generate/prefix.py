"""Full pages of keys and values, found again by the tokens that they were computed from."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from typing import Any


class Node:
    """A page, the tokens in it, and the page before it: together the whole prefix that its values depend on."""

    __slots__ = ("children", "key", "page", "parent")

    def __init__(self, parent: Node | None, key: bytes, page: Any) -> None:
        self.parent, self.key, self.page = parent, key, page
        self.children: dict[bytes, Node] = {}


class PrefixIndex:
    """A tree of pages. An edge is the tokens of a page themselves, so that equal hashes never make two prefixes one.

    Pages that nobody else uses can be evicted, the longest unused first and a page before those it follows.
    """

    def __init__(self, page_length: int) -> None:
        self.page_length = page_length
        self.root = Node(None, b"", None)
        self.nodes: OrderedDict[Node, None] = OrderedDict()  # the longest unused first

    def __len__(self) -> int:
        return len(self.nodes)

    def find(self, tokens: array[int], chain: list[Node]) -> Node | None:
        """The page that continues a chain with the next of the tokens, if it is here."""
        return self.last(chain).children.get(self.key(tokens, len(chain)))

    def put(self, tokens: array[int], chain: list[Node], page: Any) -> Node | None:
        """Enter the page that continues a chain; None when the chain itself is no longer here."""
        parent = self.last(chain)
        if parent is not self.root and parent not in self.nodes:
            return None
        node = Node(parent, self.key(tokens, len(chain)), page)
        parent.children[node.key] = node
        self.nodes[node] = None
        return node

    def last(self, chain: list[Node]) -> Node:
        """The node that a chain has come to."""
        return chain[-1] if chain else self.root

    def key(self, tokens: array[int], at: int) -> bytes:
        """The tokens of page `at`."""
        return tokens[at * self.page_length : (at + 1) * self.page_length].tobytes()

    def touch(self, chain: list[Node]) -> None:
        """Mark as used; what a page follows counts as used after it."""
        for node in reversed(chain):
            if node in self.nodes:
                self.nodes.move_to_end(node)

    def idle(self) -> int:
        """How many pages nobody else uses."""
        return sum(node.page.users == 1 for node in self.nodes)

    def evict(self) -> bool:
        """Let go of the longest unused page; False when all are in use."""
        for _ in range(len(self.nodes)):
            node = next(iter(self.nodes))
            if node.page.users == 1 and not node.children:
                self.drop(node)
                return True
            self.nodes.move_to_end(node)
        return False

    def drop(self, node: Node) -> None:
        """Take a node without children out."""
        del self.nodes[node]
        assert node.parent is not None
        del node.parent.children[node.key]

    def clear(self) -> None:
        """Let go of all pages; those in use are free with their last user."""
        for node in self.nodes:
            node.parent, node.children = None, {}  # a cycle would keep the page until Python looks for cycles
        self.nodes.clear()
        self.root = Node(None, b"", None)
