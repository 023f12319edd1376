package page

// Settle waits until no fill is running.
func (c *Cache) Settle() { c.fills.Wait() }
