package remote

// SetPage sets how many entries a page of a listing has. It comes before the server is registered.
func (s *Server) SetPage(n int) { s.page = n }
