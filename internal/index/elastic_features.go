package index

// Features are what the server is and has.
type Features struct {
	// Distribution is elasticsearch or opensearch, "" where the server does not tell.
	Distribution string
	// Version is the server's, "" where it does not tell.
	Version string
	// DataStreams, Lifecycles (ILM) and DeleteByQuery say whether the server has these.
	DataStreams, Lifecycles, DeleteByQuery bool
}
