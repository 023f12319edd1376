package page

// index finds the slot of a page by its key: hash tables of open addressing, five bytes a place, at most three quarters full.
// It holds no pointer for the garbage collector to follow and no key: that is in the slot. There are many small tables so
// that the growth of one holds the store's lock for no more than a millisecond, even with ten million pages. An index is
// not safe for concurrent use.
type index struct {
	at    func(no uint32) *slot
	hash  func(k Key) uint64
	pages int
	parts [1 << 10]indexPart
}

// indexPart has the pages whose hashes share their first ten bits.
type indexPart struct {
	tags  []uint8 // eight more bits of the hash, 0 for an empty place: most looks at a slot that is another's are spared
	slots []uint32
	pages int
}

func tagOf(hash uint64) uint8 { return max(1, uint8(hash>>40)) }

// find returns the slot of the page k with its hash, and none if there is none.
func (x *index) find(k Key, hash uint64) uint32 {
	p := &x.parts[hash>>54]
	if p.pages == 0 {
		return none
	}
	i := p.search(x.at, k, hash)
	if p.tags[i] == 0 {
		return none
	}
	return p.slots[i]
}

// search returns the place of k, or the empty one where it would be. There is an empty one.
func (p *indexPart) search(at func(no uint32) *slot, k Key, hash uint64) int {
	mask, tag := len(p.tags)-1, tagOf(hash)
	i := int(hash) & mask
	for p.tags[i] != 0 && (p.tags[i] != tag || at(p.slots[i]).key() != k) {
		i = (i + 1) & mask
	}
	return i
}

// add makes no the slot of the page k, which has none.
func (x *index) add(k Key, hash uint64, no uint32) {
	p := &x.parts[hash>>54]
	if 4*(p.pages+1) > 3*len(p.tags) {
		x.grow(p)
	}
	p.place(hash, no)
	p.pages++
	x.pages++
}

func (p *indexPart) place(hash uint64, no uint32) {
	mask := len(p.tags) - 1
	i := int(hash) & mask
	for p.tags[i] != 0 {
		i = (i + 1) & mask
	}
	p.tags[i], p.slots[i] = tagOf(hash), no
}

func (x *index) grow(p *indexPart) {
	size := max(8, 2*len(p.tags))
	old := *p
	p.tags, p.slots = make([]uint8, size), make([]uint32, size)
	for i, tag := range old.tags {
		if tag != 0 {
			p.place(x.hash(x.at(old.slots[i]).key()), old.slots[i])
		}
	}
}

// remove forgets the page k, which is there.
func (x *index) remove(k Key, hash uint64) {
	p := &x.parts[hash>>54]
	mask := len(p.tags) - 1
	hole := p.search(x.at, k, hash)
	// What follows without a gap moves up where it would not be found behind the hole.
	for i := (hole + 1) & mask; p.tags[i] != 0; i = (i + 1) & mask {
		home := int(x.hash(x.at(p.slots[i]).key())) & mask
		if (i-home)&mask >= (i-hole)&mask {
			p.tags[hole], p.slots[hole] = p.tags[i], p.slots[i]
			hole = i
		}
	}
	p.tags[hole] = 0
	p.pages--
	x.pages--
}
